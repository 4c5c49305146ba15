"""Everything that outlives a request, and its upkeep."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from sqlalchemy import ColumnElement, Connection, Table, delete, select

from gateway.config import StateConfig
from gateway.errors import UnavailableError
from gateway.store import instances
from gateway.store.completions import StoredCompletions
from gateway.store.conversations import StoredConversations
from gateway.store.database import Database
from gateway.store.responses import StoredResponses, fail_abandoned
from gateway.store.schema import chat_completions, conversation_items, responses
from gateway.store.upkeep import DAY_S, attempt, keep_up, purge

logger = logging.getLogger(__name__)

_WHAT = "state database"


class Store:
    """The open database and what is kept in it.

    `clock` tells seconds since the epoch. Raises ConfigError where the database can't be opened.
    """

    def __init__(self, config: StateConfig, clock: Callable[[], float] = time.time) -> None:
        self.database = Database(config.url)
        self._instance = instances.new_instance_id()
        self.completions = StoredCompletions(self.database, config.max_object_bytes)
        self.responses = StoredResponses(self.database, config.max_object_bytes, self._instance)
        self.conversations = StoredConversations(self.database, config.max_object_bytes, clock)
        self._retention_s = config.retention_days * DAY_S
        self._clock = clock
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Do the first upkeep now, and more of it until `close`."""
        await attempt(self.upkeep, _WHAT)
        self._upkeep = asyncio.create_task(
            keep_up(self.upkeep, _WHAT, instances.HEARTBEAT_S), name="state-upkeep"
        )

    async def close(self) -> None:
        """Let what this gateway was still at fail, write everything down, close the database."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._upkeep
        with contextlib.suppress(UnavailableError):
            await self.database.write(self._leave)
        await self.database.close()

    async def upkeep(self) -> None:
        """Tell that this gateway lives, let responses of dead ones fail, delete what is too old:
        a bounded number of each. Raises UnavailableError."""
        now = self._clock()
        await self.database.write(
            lambda connection: instances.beat(connection, self._instance, now)
        )
        await self.database.write(lambda connection: fail_abandoned(connection, now))
        await self._purge(now - self._retention_s)

    def _leave(self, connection: Connection) -> None:
        instances.leave(connection, self._instance)
        fail_abandoned(connection, self._clock())

    async def _purge(self, before: float) -> None:
        aged: list[tuple[Table, ColumnElement[bool]]] = [
            (chat_completions, chat_completions.c.created < before),
            (responses, responses.c.created < before),
            (
                conversation_items,
                conversation_items.c.body.is_(None) & (conversation_items.c.created < before),
            ),
        ]
        for table, too_old in aged:
            await purge(self.database, partial(_delete_some, table, too_old))


def _delete_some(
    table: Table, which: ColumnElement[bool], connection: Connection, limit: int
) -> int:
    some = select(table.c.seq).where(which).limit(limit)
    return connection.execute(delete(table).where(table.c.seq.in_(some))).rowcount
