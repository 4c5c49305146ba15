"""What is sent to SQLite can be said to PostgreSQL too. With GATEWAY_TEST_POSTGRES set the other
tests run there as well."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import ClauseElement, event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.schema import CreateIndex, CreateTable

from gateway.config import StateConfig
from gateway.store import schema
from gateway.store.paging import Slice
from gateway.store.state import Store
from tests.store.conftest import USER, completion, item, response

POSTGRES: Any = PGDialect_psycopg()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("table", schema.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_table_can_be_made(table: Any) -> None:
    statement = str(CreateTable(table).compile(dialect=POSTGRES))
    assert ("seq" not in table.c) or "seq BIGSERIAL" in statement
    for index in table.indexes:
        assert str(CreateIndex(index).compile(dialect=POSTGRES)).startswith("CREATE INDEX")


async def test_every_statement_can_be_said() -> None:
    said: list[ClauseElement] = []
    store = Store(StateConfig(url="sqlite://"))
    event.listen(
        store.database._engine,
        "before_execute",
        lambda _connection, statement, *_: said.append(statement),
    )
    await store.start()
    everywhere = Slice(order="desc", after="chatcmpl-2")
    for number in (1, 2):
        await store.completions.save("ann", completion(number), USER, {"a": "b"})
    await store.completions.list("ann", everywhere, model="tiny", metadata={"a": "b"})
    await store.completions.update("ann", "chatcmpl-1", {"c": "d"})
    await store.completions.delete("ann", "chatcmpl-1")
    await store.responses.create("ann", response(1, status="queued"), [item("a")])
    await store.responses.update("ann", response(1))
    await store.responses.create("ann", response(2, previous_response_id="resp_1"), [])
    await store.responses.chain("ann", "resp_2")
    await store.responses.input_items("ann", "resp_1", Slice(after="msg_a"))
    await store.responses.delete("ann", "resp_1")
    await store.conversations.create("ann", {"id": "conv_1"}, [item("a")])
    await store.conversations.update("ann", "conv_1", {})
    await store.conversations.all_items("ann", "conv_1")
    await store.conversations.delete_item("ann", "conv_1", "msg_a")
    await store.conversations.delete("ann", "conv_1")
    await store.close()
    assert len(said) > 40
    for statement in said:
        statement.compile(dialect=POSTGRES)
