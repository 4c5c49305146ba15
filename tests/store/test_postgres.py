"""What is sent to SQLite can be said to PostgreSQL too, and what only happens on a server. Beside
one, the other tests run there as well."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import ClauseElement, Connection, Table, event, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.schema import CreateIndex, CreateTable

from gateway.config import StateConfig
from gateway.errors import UnavailableError
from gateway.store import schema, tenant_tables
from gateway.store.database import Database
from gateway.store.paging import Slice
from gateway.store.state import Store
from tests.store.conftest import USER, completion, item, response

POSTGRES: Any = PGDialect_psycopg()  # type: ignore[no-untyped-call]


TABLES = [
    table
    for module in (schema, tenant_tables)
    for table in vars(module).values()
    if isinstance(table, Table)
]

Change = Callable[[Connection], None]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
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


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """With a table of two rows."""
    opened = Database(postgres_url)
    await opened.write(lambda c: run(c, "CREATE TABLE counted (id integer, n integer)"))
    await opened.write(lambda c: run(c, "INSERT INTO counted VALUES (1, 0), (2, 0)"))
    yield opened
    await opened.close()


def run(connection: Connection, statement: str) -> None:
    connection.execute(text(statement))


def total(connection: Connection) -> int:
    return int(connection.execute(text("SELECT sum(n) FROM counted")).scalar_one())


def drop_every_connection(connection: Connection) -> None:
    """All that this test has made, but this one."""
    run(
        connection,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        "AND application_name = current_setting('application_name')",
    )


async def test_reading_does_not_wait_for_a_writer(database: Database) -> None:
    held, inside = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        run(connection, "UPDATE counted SET n = n + 1")
        inside.set()
        held.wait(10)

    writing = asyncio.create_task(database.write(hold))
    await asyncio.to_thread(inside.wait, 10)
    assert await asyncio.gather(*(database.read(total) for _ in range(20))) == [0] * 20
    held.set()
    await writing
    assert await database.read(total) == 2


async def test_connections_that_the_server_has_dropped_are_made_again(database: Database) -> None:
    await asyncio.gather(*(database.read(total) for _ in range(20)))
    await database.write(drop_every_connection)
    assert await asyncio.gather(*(database.read(total) for _ in range(20))) == [0] * 20
    await database.write(lambda c: run(c, "UPDATE counted SET n = 1"))
    assert await database.read(total) == 2


async def test_a_change_whose_connection_is_dropped_is_a_503_and_the_next_one_works(
    database: Database,
) -> None:
    def dropped(connection: Connection) -> None:
        run(connection, "UPDATE counted SET n = n + 1")
        run(connection, "SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(UnavailableError) as refused:
        await database.write(dropped)
    assert refused.value.code == "storage_unavailable"
    await database.write(lambda c: run(c, "UPDATE counted SET n = n + 1"))
    assert await database.read(total) == 2


async def test_changes_of_two_gateways_that_block_each_other_are_both_made(
    database: Database, postgres_url: str
) -> None:
    other = Database(postgres_url)
    both_hold_one = threading.Barrier(2)
    tries: list[int] = []

    def change(first: int, second: int) -> Change:
        met = False

        def change(connection: Connection) -> None:
            nonlocal met
            tries.append(first)
            run(connection, f"UPDATE counted SET n = n + 1 WHERE id = {first}")
            if not met:
                met = True
                both_hold_one.wait(10)
            run(connection, f"UPDATE counted SET n = n + 1 WHERE id = {second}")

        return change

    await asyncio.gather(database.write(change(1, 2)), other.write(change(2, 1)))
    assert len(tries) > 2  # one of them more than once
    assert await database.read(total) == 4
    await other.close()
