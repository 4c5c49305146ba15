"""Asks for what a gateway wants of shared limits, one call at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from gateway.config import LimitsConfig
from gateway.errors import UnavailableError, draining
from gateway.limits.leased import Leased
from gateway.limits.leases import MAX_ASKS, Call, Leases
from gateway.limits.meters import Meter
from gateway.limits.reservation import Amounts, Reservation
from gateway.limits.shared import SharedLimits
from gateway.limits.use import Use
from gateway.tenants import Budget

logger = logging.getLogger(__name__)

# What nobody waits for is told together with what else there is by then.
GAP_S = 0.05
CALL_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 3.0
RETRY_S = 1.0


class Leasing:
    """`clock` tells seconds since the epoch here; `now` tells them as the store does, so that
    windows end at the same time for all gateways."""

    def __init__(
        self, config: LimitsConfig, shared: SharedLimits, clock: Callable[[], float]
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._ahead_s = 0.0
        self._lease_s = config.lease_s
        self.leases = Leases(config.slice, config.lease_s, self._wake)
        self._woken = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def make_meter(
        self,
        account: str,
        kind: str,
        limit: int | None,
        budget: Budget | None,
        now: float,
        use: Use | None,
    ) -> Meter | None:
        """One that counts what this gateway holds."""
        if limit is None:
            return None
        return self.leases.meter(account, kind, limit, budget, now, use)

    def now(self) -> float:
        return self._clock() + self._ahead_s

    async def start(self) -> None:
        """Raises ConfigError where the store can't be reached."""
        asked = self._clock()
        self._ahead_s = await self._shared.open() - (asked + self._clock()) / 2
        self._task = asyncio.create_task(self._run(), name="limits-leasing")

    async def close(self) -> None:
        """Give everything back."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while await self._send(closing=True) is not None and not self._failing:
                    pass  # thousands of limits take several calls
        await self._shared.close()

    async def borrow(self, meters: Iterable[Meter], amounts: Amounts) -> Reservation:
        """Wait for grants. Raises RateLimitError, QuotaExceededError (429) where they aren't
        given, UnavailableError (503) where nobody answers."""
        if self._task is None:
            raise draining()
        future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        leased: list[Leased] = []
        others: list[Meter] = []
        for meter in meters:
            if isinstance(meter, Leased):
                leased.append(meter)
            else:
                others.append(meter)
        self.leases.borrow(leased, amounts, future, self.now(), self.now)
        try:
            reservation = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().cancel()  # it came at the same time
            raise
        reservation.count(others)
        return reservation

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease_s / 6):
                    await self._woken.wait()
            self._woken.clear()
            while (call := await self._send()) is not None:
                if self._failing:
                    await asyncio.sleep(RETRY_S)
                elif len(call.rows) < MAX_ASKS:
                    break  # that was all, and what has come since can wait for a moment

    async def _send(self, *, closing: bool = False) -> Call | None:
        """Make a call if there is anything to say."""
        call = self.leases.call(self.now(), closing=closing)
        if call is None:
            return None
        try:
            await self._make(call)
        except asyncio.CancelledError:
            self.leases.failed(call, draining(), self.now())
            raise
        except Exception as error:
            if not isinstance(error, (UnavailableError, TimeoutError)):
                logger.exception("a call for shared limits failed")
            elif not self._failing:
                logger.error("shared limits can't be reached: %s", error or "no answer")
            self._failing = True
            self.leases.failed(call, _unavailable(), self.now())
            return call
        if self._failing:
            logger.info("shared limits can be reached again")
        self._failing = False
        return call

    async def _make(self, call: Call) -> None:
        asked = self._clock()
        async with asyncio.timeout(CALL_TIMEOUT_S):
            grants = await self._shared.lease(call.number, call.asks)
        answered = self._clock()
        ahead = grants[-1].now - (asked + answered) / 2
        if abs(ahead - self._ahead_s) > abs(answered - asked) / 2:
            self._ahead_s = ahead
        self.leases.answered(call, grants, self.now(), self.now)

    def _wake(self, urgent: bool) -> None:
        if self._task is None:
            return
        if urgent:
            self._woken.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GAP_S, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self.leases.tick()
        self._woken.set()


def _unavailable() -> UnavailableError:
    return UnavailableError(
        "The server can't reach what its limits are shared through; retry shortly.",
        code="storage_unavailable",
        retry_after_s=RETRY_S,
    )
