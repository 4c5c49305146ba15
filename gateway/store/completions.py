"""Stored chat completions: those made with `store: true`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, exists, insert, select, update

from gateway.errors import UnavailableError
from gateway.store.database import Database
from gateway.store.paging import Page, Slice, fetch_page, slice_page
from gateway.store.schema import chat_completion_metadata as labels
from gateway.store.schema import chat_completions as table

logger = logging.getLogger(__name__)

_encode = msgspec.json.encode


class StoredCompletions:
    """Every method sees the objects of one `owner`, and nobody else's.

    Methods raise UnavailableError (503) where the database fails; `save` doesn't.
    """

    def __init__(self, database: Database, max_object_bytes: int) -> None:
        self._database = database
        self._max_bytes = max_object_bytes

    async def save(
        self,
        owner: str,
        completion: Mapping[str, Any],
        messages: Sequence[Mapping[str, Any]],
        metadata: Mapping[str, str] | None = None,
    ) -> bool:
        """Keep a `chat.completion` object and the messages of its request as the client sent them.

        Returns once it is on disk. False, and a line in the log, where it can't be kept: its
        answer is the client's all the same.
        """
        labelled = dict(metadata or {})
        body = _encode({**completion, "metadata": labelled})
        asked = _encode(messages)
        if len(body) + len(asked) > self._max_bytes:
            logger.warning(
                "%s is not stored: %d bytes are more than state.max_object_bytes, %d",
                completion["id"],
                len(body) + len(asked),
                self._max_bytes,
            )
            return False
        row = {
            "id": completion["id"],
            "owner": owner,
            "model": completion["model"],
            "created": completion["created"],
            "messages": asked,
            "body": body,
        }

        def save(connection: Connection) -> None:
            seq = connection.execute(insert(table).values(row).returning(table.c.seq)).scalar_one()
            _label(connection, seq, labelled)

        try:
            await self._database.write(save)
        except UnavailableError as error:
            logger.warning("%s is not stored: %s", completion["id"], error)
            return False
        return True

    async def retrieve(self, owner: str, completion_id: str) -> bytes | None:
        """The object's JSON; None where `owner` has no such."""
        query = select(table.c.body).where(_is(owner, completion_id))
        return await self._database.read(lambda connection: connection.scalar(query))

    async def list(
        self,
        owner: str,
        part: Slice,
        *,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Page:
        """By time of creation; only those of `model`, and with all of `metadata`.

        Raises InvalidRequestError for an unknown `part.after`.
        """
        only: list[ColumnElement[bool]] = [
            exists().where(
                labels.c.completion_seq == table.c.seq,
                labels.c.key == key,
                labels.c.value == value,
            )
            for key, value in (metadata or {}).items()
        ]
        if model is not None:
            only.append(table.c.model == model)
        return await self._database.read(
            lambda connection: fetch_page(
                connection,
                table,
                part,
                order_by=[table.c.created, table.c.seq],
                scope=table.c.owner == owner,
                only=only,
            )
        )

    async def messages(self, owner: str, completion_id: str, part: Slice) -> Page | None:
        """The request's messages, each with the id it has among them; None where there is no such
        completion. Raises InvalidRequestError for an unknown `part.after`."""
        query = select(table.c.messages).where(_is(owner, completion_id))
        found = await self._database.read(lambda connection: connection.scalar(query))
        if found is None:
            return None
        bodies = [bytes(raw) for raw in msgspec.json.decode(found, type=list[msgspec.Raw])]
        return slice_page(
            [f"{completion_id}-{place}" for place in range(len(bodies))], bodies, part
        )

    async def update(
        self, owner: str, completion_id: str, metadata: Mapping[str, str]
    ) -> bytes | None:
        """Replace the metadata; returns the object as it is now, None where there is no such."""
        labelled = dict(metadata)

        def change(connection: Connection) -> bytes | None:
            query = select(table.c.seq, table.c.body).where(_is(owner, completion_id))
            row = connection.execute(query.with_for_update()).first()
            if row is None:
                return None
            fields = msgspec.json.decode(row.body, type=dict[str, msgspec.Raw])
            body = _encode({**fields, "metadata": labelled})
            connection.execute(update(table).where(table.c.seq == row.seq).values(body=body))
            connection.execute(delete(labels).where(labels.c.completion_seq == row.seq))
            _label(connection, row.seq, labelled)
            return body

        return await self._database.write(change)

    async def delete(self, owner: str, completion_id: str) -> bool:
        """False where there is no such."""

        def change(connection: Connection) -> bool:
            emptied = (
                update(table)
                .where(_is(owner, completion_id))
                .values(body=None, messages=None)
                .returning(table.c.seq)
            )
            seq = connection.execute(emptied).scalar()
            if seq is None:
                return False
            connection.execute(delete(labels).where(labels.c.completion_seq == seq))
            return True

        return await self._database.write(change)


def _is(owner: str, completion_id: str) -> ColumnElement[bool]:
    return and_(table.c.id == completion_id, table.c.owner == owner, table.c.body.is_not(None))


def _label(connection: Connection, seq: int, metadata: Mapping[str, str]) -> None:
    if metadata:
        connection.execute(
            insert(labels),
            [
                {"completion_seq": seq, "key": key, "value": value}
                for key, value in metadata.items()
            ],
        )
