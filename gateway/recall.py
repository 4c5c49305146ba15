"""What keys and teams used before they were given a budget counts, too."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final, get_args

from gateway.errors import UnavailableError
from gateway.keys import KeyRing
from gateway.ledger import Ledger
from gateway.limits import Limiter
from gateway.tenants import Window

logger = logging.getLogger(__name__)

RETRY_S: Final = 1.0
RETRY_CAP_S: Final = 60.0


class Recall:
    """Tells the limiter what the ledger says was used: at the start, and where a budget may be new.

    The ledger is summed up once at a time, and once more for all budgets that came meanwhile. Where
    that fails it is tried again, after `retry_s` and then ever longer pauses.
    """

    def __init__(
        self, keys: KeyRing, ledger: Ledger, limiter: Limiter, *, retry_s: float = RETRY_S
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._limiter = limiter
        self._retry_s = retry_s
        self._wanted = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    @property
    def pending(self) -> bool:
        """Whether there are budgets that don't count yet what was used before them."""
        return self._work is not None and not self._work.done()

    async def start(self) -> None:
        """Recall all, then follow the keys' budgets until `close`. Raises UnavailableError."""
        self._limiter.restore(await self._ledger.spent(self._windows()))
        self._keys.on_budgets = self._later

    async def close(self) -> None:
        self._keys.on_budgets = None
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work

    def _later(self) -> None:
        self._wanted.set()
        if not self.pending:
            self._work = asyncio.create_task(self._recall(), name="recall")

    async def _recall(self) -> None:
        pause = self._retry_s
        while self._wanted.is_set():
            self._wanted.clear()
            try:
                self._limiter.at_least(await self._ledger.spent(self._windows()))
                pause = self._retry_s
                continue
            except UnavailableError as error:
                logger.warning("what new budgets have used isn't known yet: %s", error.message)
            except Exception:
                logger.exception("what new budgets have used isn't known yet")
            with contextlib.suppress(TimeoutError):  # a new budget doesn't wait for the next try
                await asyncio.wait_for(self._wanted.wait(), pause)
                pause = self._retry_s
            self._wanted.set()
            pause = min(2 * pause, max(self._retry_s, RETRY_CAP_S))

    def _windows(self) -> set[Window]:
        windows = set(get_args(Window))
        if all(budget.window != "total" for budget in self._keys.budgets()):
            windows.discard("total")  # the sum of the whole table takes its time
        return windows
