"""What is done to a database now and then: in small pieces, and whatever happens, again later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import Connection

from gateway.errors import UnavailableError
from gateway.store.database import Database

logger = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
PURGED_AT_ONCE: Final = 500
_PURGES_IN_A_ROW: Final = 200

Upkeep = Callable[[], Awaitable[None]]


async def purge(database: Database, delete: Callable[[Connection, int], int]) -> None:
    """Let `delete` delete at most so many rows at a time and return how many there were: in small
    transactions, so that other writers needn't wait for a large one. A bounded number. Raises
    UnavailableError."""
    for _ in range(_PURGES_IN_A_ROW):
        gone = await database.write(lambda connection: delete(connection, PURGED_AT_ONCE))
        if gone < PURGED_AT_ONCE:
            break


async def attempt(upkeep: Upkeep, what: str) -> None:
    """Do it; that it failed is logged, with `what` it is of."""
    try:
        await upkeep()
    except UnavailableError:
        pass  # the database has logged it; the next one will do both
    except Exception:
        logger.exception("the upkeep of the %s failed", what)


async def keep_up(upkeep: Upkeep, what: str, every_s: float) -> None:
    """Attempt it so often, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        await attempt(upkeep, what)
