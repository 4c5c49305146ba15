"""Objects of the Responses API, and the items they were asked with.

::

    queued ──► in_progress ──► completed | incomplete | failed | cancelled
       └──────────────────────────────────────────────▲

A response that has ended stays as it is. One whose gateway died fails, see `fail_abandoned`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from gateway.errors import InvalidRequestError
from gateway.store import instances
from gateway.store.database import Database
from gateway.store.paging import Page, Slice, fetch_page
from gateway.store.schema import response_items as items_table
from gateway.store.schema import responses as table

RUNNING = frozenset({"queued", "in_progress"})
MAX_CHAIN = 1000
MAX_CHAIN_BYTES = 8 * 1024 * 1024
FAILED_AT_ONCE = 100

_encode = msgspec.json.encode


class StoredResponses:
    """Every method sees the objects of one `owner`, and nobody else's.

    `instance` is the id of this gateway: responses that it begins are its own to end. Methods
    raise UnavailableError (503) where the database fails.
    """

    def __init__(self, database: Database, max_object_bytes: int, instance: str) -> None:
        self._database = database
        self._max_bytes = max_object_bytes
        self._instance = instance

    async def create(
        self, owner: str, response: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep a `response` object, in whatever status, and its input items, each with an `id`.

        Raises InvalidRequestError (400) where it is larger than `state.max_object_bytes` or two
        items have one id.
        """
        body, bodies = _encode(response), [_encode(item) for item in items]
        if len(body) + sum(map(len, bodies)) > self._max_bytes:
            raise InvalidRequestError(
                f"The input is too large to be stored: a response may have {self._max_bytes} "
                "bytes. Shorten it or set 'store' to false.",
                code="object_too_large",
                param="input",
            )
        require_different_ids(items, "input")
        row = {
            "id": response["id"],
            "owner": owner,
            "created": int(response["created_at"]),
            "previous_id": response.get("previous_response_id"),
            **self._state(response["status"]),
            "body": body,
        }

        def create(connection: Connection) -> None:
            seq = connection.execute(insert(table).values(row).returning(table.c.seq)).scalar_one()
            if items:
                connection.execute(
                    insert(items_table),
                    [
                        {"response_seq": seq, "id": item["id"], "body": encoded}
                        for item, encoded in zip(items, bodies, strict=True)
                    ],
                )

        await self._database.write(create)

    async def update(self, owner: str, response: Mapping[str, Any]) -> bool:
        """Put `response` in the place of the one with its id. False where that has ended, for
        instance because it was cancelled, or is gone. What is too large to be kept becomes a
        failed response without output."""
        body = _encode(response)
        if len(body) > self._max_bytes:
            message = f"The response has more than the {self._max_bytes} bytes that can be stored."
            response = {**response, **_failure(message)}
            body = _encode(response)
        change = (
            update(table)
            .where(_is(owner, response["id"]), table.c.status.in_(RUNNING))
            .values(body=body, **self._state(response["status"]))
        )
        return await self._database.write(
            lambda connection: bool(connection.execute(change).rowcount)
        )

    async def retrieve(self, owner: str, response_id: str) -> bytes | None:
        """The object's JSON; None where `owner` has no such."""
        query = select(table.c.body).where(_is(owner, response_id))
        return await self._database.read(lambda connection: connection.scalar(query))

    async def delete(self, owner: str, response_id: str) -> bool:
        """Delete it with its input items. False where there is no such."""
        change = delete(table).where(_is(owner, response_id))
        return await self._database.write(
            lambda connection: bool(connection.execute(change).rowcount)
        )

    async def input_items(self, owner: str, response_id: str, part: Slice) -> Page | None:
        """The items it was asked with, without those of the responses before it; None where there
        is no such response. Raises InvalidRequestError for an unknown `part.after`."""

        def query(connection: Connection) -> Page | None:
            seq = connection.scalar(select(table.c.seq).where(_is(owner, response_id)))
            if seq is None:
                return None
            return fetch_page(
                connection,
                items_table,
                part,
                order_by=[items_table.c.seq],
                scope=items_table.c.response_seq == seq,
            )

        return await self._database.read(query)

    async def chain(self, owner: str, response_id: str) -> list[dict[str, Any]] | None:
        """What was said up to and with this response, oldest first: of it and of each response it
        follows, the input items and then the output. None where one of them is gone.

        Raises InvalidRequestError (400) where that is more than `MAX_CHAIN` responses or
        `MAX_CHAIN_BYTES`.
        """
        return await self._database.read(lambda connection: _chain(connection, owner, response_id))

    def _state(self, status: str) -> dict[str, Any]:
        return {"status": status, "runner": self._instance if status in RUNNING else None}


def fail_abandoned(connection: Connection, now: float) -> int:
    """Let responses fail whose gateway doesn't live any more, at most `FAILED_AT_ONCE`; returns
    how many there were."""
    abandoned = (
        select(table.c.seq, table.c.body)
        .where(table.c.runner.is_not(None), table.c.runner.not_in(instances.living(now)))
        .limit(FAILED_AT_ONCE)
    )
    rows = connection.execute(abandoned).all()
    failure = _failure("The server ended before the response was complete.")
    del failure["output"]  # what was there already stays
    for seq, body in rows:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        connection.execute(
            update(table)
            .where(table.c.seq == seq, table.c.status.in_(RUNNING))
            .values(status="failed", runner=None, body=_encode({**fields, **failure}))
        )
    return len(rows)


def require_different_ids(items: Sequence[Mapping[str, Any]], param: str) -> None:
    """Raises InvalidRequestError where two items have one id."""
    seen = set()
    for item in items:
        if item["id"] in seen:
            raise duplicate_item(item["id"], param)
        seen.add(item["id"])


def duplicate_item(item_id: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Duplicate item found with id {item_id}. Remove duplicate items from your input and try "
        "again.",
        code="invalid_value",
        param=param,
    )


def _failure(message: str) -> dict[str, Any]:
    return {
        "status": "failed",
        "error": {"code": "server_error", "message": message},
        "output": [],
    }


def _is(owner: str, response_id: str) -> ColumnElement[bool]:
    return and_(table.c.id == response_id, table.c.owner == owner)


def _chain(connection: Connection, owner: str, response_id: str) -> list[dict[str, Any]] | None:
    first = select(table.c.seq, table.c.previous_id, literal(1).label("depth")).where(
        _is(owner, response_id)
    )
    links = first.cte("links", recursive=True)
    links = links.union_all(
        select(table.c.seq, table.c.previous_id, links.c.depth + 1).where(
            table.c.id == links.c.previous_id,
            table.c.owner == owner,
            links.c.depth <= MAX_CHAIN,
        )
    )
    rows = connection.execute(select(links).order_by(links.c.depth.desc())).all()
    if len(rows) > MAX_CHAIN:
        raise _too_long()
    if not rows or rows[0].previous_id is not None:
        return None
    return _said(connection, [row.seq for row in rows])


def _said(connection: Connection, seqs: Sequence[int]) -> list[dict[str, Any]]:
    """The items of the responses `seqs`, in their order."""
    inputs = items_table.c.response_seq.in_(seqs)
    outputs = table.c.seq.in_(seqs)
    asked_bytes = select(func.sum(func.length(items_table.c.body))).where(inputs)
    answered_bytes = select(func.sum(func.length(table.c.body))).where(outputs)
    sizes = connection.scalar(asked_bytes), connection.scalar(answered_bytes)
    if sum(size or 0 for size in sizes) > MAX_CHAIN_BYTES:
        raise _too_long()
    said: dict[int, list[dict[str, Any]]] = {seq: [] for seq in seqs}
    items = select(items_table.c.response_seq, items_table.c.body).where(inputs)
    for seq, body in connection.execute(items.order_by(items_table.c.seq)):
        said[seq].append(msgspec.json.decode(body))
    for seq, body in connection.execute(select(table.c.seq, table.c.body).where(outputs)):
        said[seq] += msgspec.json.decode(body, type=_Output).output
    return [item for seq in seqs for item in said[seq]]


class _Output(msgspec.Struct):
    output: list[dict[str, Any]] = []


def _too_long() -> InvalidRequestError:
    return InvalidRequestError(
        f"The conversation before this request is too long: at most {MAX_CHAIN} responses and "
        f"{MAX_CHAIN_BYTES} bytes can be continued.",
        code="invalid_value",
        param="previous_response_id",
    )
