"""Conversations: items that requests of the Responses API continue. They have no age at which they
are deleted, as with the OpenAI API; that is up to their owner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from gateway.errors import InvalidRequestError
from gateway.store.database import Database
from gateway.store.paging import Page, Slice, fetch_page
from gateway.store.responses import duplicate_item, require_different_ids
from gateway.store.schema import conversation_items as items_table
from gateway.store.schema import conversations as table

MAX_ITEMS = 10_000
MAX_CONVERSATION_BYTES = 8 * 1024 * 1024

_encode = msgspec.json.encode


class StoredConversations:
    """Every method sees the objects of one `owner`, and nobody else's; what takes a conversation's
    id returns None where `owner` has no such.

    Methods raise UnavailableError (503) where the database fails.
    """

    def __init__(
        self, database: Database, max_object_bytes: int, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._max_bytes = max_object_bytes
        self._clock = clock

    async def create(
        self, owner: str, conversation: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep a `conversation` object and its first items. Raises InvalidRequestError like
        `add_items`."""
        rows = self._rows(items)

        def create(connection: Connection) -> None:
            row = {"id": conversation["id"], "owner": owner, "body": _encode(conversation)}
            seq = connection.execute(insert(table).values(row).returning(table.c.seq)).scalar_one()
            _add(connection, seq, rows)

        await self._database.write(create)

    async def retrieve(self, owner: str, conversation_id: str) -> bytes | None:
        """The object's JSON."""
        query = select(table.c.body).where(_is(owner, conversation_id))
        return await self._database.read(lambda connection: connection.scalar(query))

    async def update(
        self, owner: str, conversation_id: str, metadata: Mapping[str, str]
    ) -> bytes | None:
        """Replace the metadata; returns the object as it is now."""

        def change(connection: Connection) -> bytes | None:
            query = select(table.c.body).where(_is(owner, conversation_id)).with_for_update()
            found = connection.scalar(query)
            if found is None:
                return None
            body = _encode({**msgspec.json.decode(found), "metadata": dict(metadata)})
            connection.execute(update(table).where(_is(owner, conversation_id)).values(body=body))
            return body

        return await self._database.write(change)

    async def delete(self, owner: str, conversation_id: str) -> bool:
        """Delete it with its items. False where there is no such."""
        change = delete(table).where(_is(owner, conversation_id))
        return await self._database.write(
            lambda connection: bool(connection.execute(change).rowcount)
        )

    async def add_items(
        self, owner: str, conversation_id: str, items: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Append items, each with an `id`. False where there is no such conversation.

        Raises InvalidRequestError (400) where an item is larger than `state.max_object_bytes`, an
        id is there already, or there would be more than `MAX_ITEMS`.
        """
        rows = self._rows(items)

        def change(connection: Connection) -> bool:
            seq = connection.scalar(
                select(table.c.seq).where(_is(owner, conversation_id)).with_for_update()
            )
            if seq is None:
                return False
            _add(connection, seq, rows)
            return True

        return await self._database.write(change)

    async def list_items(self, owner: str, conversation_id: str, part: Slice) -> Page | None:
        """Items in the order they were added, or the other way round. Raises InvalidRequestError
        for an unknown `part.after`."""

        def query(connection: Connection) -> Page | None:
            seq = connection.scalar(select(table.c.seq).where(_is(owner, conversation_id)))
            if seq is None:
                return None
            return fetch_page(
                connection,
                items_table,
                part,
                order_by=[items_table.c.seq],
                scope=items_table.c.conversation_seq == seq,
            )

        return await self._database.read(query)

    async def all_items(self, owner: str, conversation_id: str) -> list[dict[str, Any]] | None:
        """Every item, oldest first. Raises InvalidRequestError (400) where that is more than
        `MAX_CONVERSATION_BYTES`."""

        def query(connection: Connection) -> list[dict[str, Any]] | None:
            seq = connection.scalar(select(table.c.seq).where(_is(owner, conversation_id)))
            if seq is None:
                return None
            live = _live(seq)
            size = connection.scalar(select(func.sum(func.length(items_table.c.body))).where(live))
            if (size or 0) > MAX_CONVERSATION_BYTES:
                raise _too_long()
            bodies = select(items_table.c.body).where(live).order_by(items_table.c.seq)
            return [msgspec.json.decode(body) for body in connection.scalars(bodies)]

        return await self._database.read(query)

    async def retrieve_item(self, owner: str, conversation_id: str, item_id: str) -> bytes | None:
        """The item's JSON; None where there is no such conversation or no such item in it."""
        query = (
            select(items_table.c.body)
            .join(table)
            .where(_is(owner, conversation_id), items_table.c.id == item_id)
        )
        return await self._database.read(lambda connection: connection.scalar(query))

    async def delete_item(self, owner: str, conversation_id: str, item_id: str) -> bool:
        """False where there is no such conversation or no such item in it."""
        seq = select(table.c.seq).where(_is(owner, conversation_id)).scalar_subquery()
        # An empty row is kept for the retention time from now on, however old its item was.
        change = (
            update(items_table)
            .where(
                items_table.c.conversation_seq == seq,
                items_table.c.id == item_id,
                items_table.c.body.is_not(None),
            )
            .values(body=None, created=int(self._clock()))
        )
        return await self._database.write(
            lambda connection: bool(connection.execute(change).rowcount)
        )

    def _rows(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        require_different_ids(items, "items")
        now = int(self._clock())
        rows = [{"id": item["id"], "created": now, "body": _encode(item)} for item in items]
        for place, row in enumerate(rows):
            if len(row["body"]) > self._max_bytes:
                raise InvalidRequestError(
                    f"Item {place} is too large to be stored: it may have {self._max_bytes} bytes.",
                    code="object_too_large",
                    param=f"items[{place}]",
                )
        return rows


def _is(owner: str, conversation_id: str) -> ColumnElement[bool]:
    return and_(table.c.id == conversation_id, table.c.owner == owner)


def _live(seq: int) -> ColumnElement[bool]:
    return and_(items_table.c.conversation_seq == seq, items_table.c.body.is_not(None))


def _add(connection: Connection, seq: int, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    ids = [row["id"] for row in rows]
    with_these = and_(items_table.c.conversation_seq == seq, items_table.c.id.in_(ids))
    taken = connection.scalar(
        select(items_table.c.id).where(with_these, items_table.c.body.is_not(None)).limit(1)
    )
    if taken is not None:
        raise duplicate_item(taken, "items")
    connection.execute(delete(items_table).where(with_these))  # deleted before: the id is free
    present = connection.scalar(select(func.count()).select_from(items_table).where(_live(seq)))
    if (present or 0) + len(rows) > MAX_ITEMS:
        raise InvalidRequestError(
            f"A conversation may have {MAX_ITEMS} items; this one has {present}.",
            code="array_above_max_length",
            param="items",
        )
    connection.execute(insert(items_table), [{"conversation_seq": seq, **row} for row in rows])


def _too_long() -> InvalidRequestError:
    return InvalidRequestError(
        f"The conversation is too long: at most {MAX_CONVERSATION_BYTES} bytes can be continued.",
        code="invalid_value",
        param="conversation",
    )
