"""All that one gateway holds of shared limits, and who waits for more. Pure: the time is told, and
what is to be sent is sent by `leasing.py`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from weakref import WeakValueDictionary

import msgspec

from gateway.errors import APIError
from gateway.limits.leased import Leased
from gateway.limits.meters import SLOT, Meter
from gateway.limits.refusals import worst
from gateway.limits.reservation import Amounts, Reservation
from gateway.limits.shared import Ask, Grant
from gateway.limits.use import Use
from gateway.tenants import Budget

MAX_ASKS = 256
# After so many ticks others have told that a slot is free: the first may come at once.
_SLOT_TOLD = 2


class Part:
    """What one request wants of one limit in the window that is now, and what it has of that."""

    __slots__ = ("amount", "had", "meter", "since")

    def __init__(self, meter: Leased, amount: int, now: float) -> None:
        self.meter = meter
        self.amount = amount
        self.borrow(now)

    def borrow(self, now: float) -> None:
        """Take what there is of it."""
        self.had = self.amount - self.meter.borrow(self.amount, now)
        self.since = self.meter.since

    def grant(self, now: float) -> None:
        """The rest of it was granted."""
        rest = self.amount - self.had
        if self.meter.since == self.since:
            self.had = self.amount
        else:  # not to be mixed with what is of a window that is over
            self.meter.give(rest, self.meter.since, now)

    def forgo(self, now: float) -> None:
        self.meter.forgo(self.amount, self.had, self.since, now)


class Waiting:
    """A request that waits for grants."""

    __slots__ = ("again", "amounts", "future", "parts", "unanswered")

    def __init__(self, amounts: Amounts, future: asyncio.Future[Reservation]) -> None:
        self.amounts = amounts
        self.future = future
        self.parts: list[Part] = []
        self.unanswered = 0
        self.again = False


class Row(msgspec.Struct, frozen=True):
    """An ask, and the parts that are its needs."""

    meter: Leased
    ask: Ask
    wanting: list[tuple[Waiting, Part]]


class Call(msgspec.Struct, frozen=True):
    """Asks that are sent together, at `sent`."""

    number: int
    rows: list[Row]
    sent: float

    @property
    def asks(self) -> list[Ask]:
        return [row.ask for row in self.rows]


class Leases:
    """`share` and `lease_s` are of the configuration. `wake` is called when a call should be made
    soon, with True when somebody waits for it."""

    def __init__(self, share: float, lease_s: float, wake: Callable[[bool], None]) -> None:
        self._share = share
        self._lease_s = lease_s
        self._wake = wake
        # As long as anybody has one there is no other: what one has taken comes back to itself.
        self._made: WeakValueDictionary[tuple[str, str], Leased] = WeakValueDictionary()
        # Those that were asked for and of which something is held.
        self._alive: dict[Leased, None] = {}
        self._dirty: dict[Leased, None] = {}
        self._waiting: list[Waiting] = []
        self._parked: deque[tuple[int, Waiting, Callable[[], float]]] = deque()
        self._failed: Call | None = None
        self._calls = 0
        self._ticks = 0

    def meter(
        self,
        account: str,
        kind: str,
        limit: int,
        budget: Budget | None,
        now: float,
        use: Use | None = None,
    ) -> Leased:
        """The one that counts this, with the `limit` it has now."""
        found = self._made.get((account, kind))
        if found is not None:
            found.edit(limit, now)
            found.use = use
            return found
        made = Leased(
            account, kind, limit, budget, self._share, self._lease_s, self._stir, now, use
        )
        self._made[account, kind] = made
        return made

    def borrow(
        self,
        meters: Iterable[Leased],
        amounts: Amounts,
        future: asyncio.Future[Reservation],
        now: float,
        clock: Callable[[], float],
    ) -> None:
        """Let a request wait until all of `amounts` is granted, or some isn't."""
        waiting = Waiting(amounts, future)
        waiting.parts = [Part(meter, amounts[meter.unit], now) for meter in meters]
        self._enter(waiting, now, clock)
        self._wake(True)

    def tick(self) -> None:
        """The moment is over after which a call that wasn't urgent should be made."""
        self._ticks += 1

    def call(self, now: float, *, closing: bool = False) -> Call | None:
        """What is to be sent now: the last call again where its answer never came."""
        if self._failed is not None:
            return self._failed
        self._unpark(now, closing)
        wanting = self._wanting()
        due = dict.fromkeys(wanting)
        for meter in self._dirty:
            due.setdefault(meter)
        for meter in self._alive:
            if meter.renew_at <= now or (closing and meter.holds):
                due.setdefault(meter)
        rows = []
        for meter in list(due)[: max(MAX_ASKS, len(wanting))]:
            self._dirty.pop(meter, None)
            self._alive[meter] = None
            wants = wanting.get(meter, [])
            needs = tuple(part.amount - part.had for _, part in wants)
            rows.append(Row(meter, meter.ask(needs, now, closing=closing), wants))
        if not rows:
            return None
        self._calls += 1
        return Call(self._calls, rows, now)

    def answered(
        self, call: Call, grants: Sequence[Grant], now: float, clock: Callable[[], float]
    ) -> None:
        """Hand out what was granted."""
        again = self._failed is not None
        self._failed = None
        for row, grant in zip(call.rows, grants, strict=True):
            granted = row.meter.answered(row.ask, grant, call.sent, now)
            if again:  # who wanted it has been told that nobody knows
                answers = zip(row.ask.needs, granted, strict=True)
                unwanted = sum(need for need, met in answers if met)
                row.meter.give(unwanted, grant.since, now)
                continue
            for (waiting, part), met in zip(row.wanting, granted, strict=True):
                waiting.unanswered -= 1
                if met:
                    part.grant(now)
        for row in call.rows:
            for waiting, _ in row.wanting:
                if not waiting.unanswered:
                    waiting.unanswered = -1
                    self._conclude(waiting, now, clock)
            if row.meter.idle(now):
                self._alive.pop(row.meter, None)

    def failed(self, call: Call, error: APIError, now: float) -> None:
        """The answer to a call never came; everybody who waits is told."""
        told = {id(waiting): waiting for row in call.rows for waiting, _ in row.wanting}
        told.update((id(waiting), waiting) for waiting in self._waiting)
        self._waiting = []
        for waiting in told.values():
            self._refuse(waiting, error, now)
        for _, waiting, _ in self._parked:  # they hold nothing
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self._parked.clear()
        rows = [msgspec.structs.replace(row, wanting=[]) for row in call.rows]
        self._failed = msgspec.structs.replace(call, rows=rows)

    def _enter(self, waiting: Waiting, now: float, clock: Callable[[], float]) -> None:
        if all(part.had == part.amount for part in waiting.parts):
            self._conclude(waiting, now, clock)  # some has come back meanwhile
        else:
            self._waiting.append(waiting)

    def _wanting(self) -> dict[Leased, list[tuple[Waiting, Part]]]:
        """Who waits for what of each limit; from now on for the answer."""
        found: dict[Leased, list[tuple[Waiting, Part]]] = {}
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            for part in one.parts:
                if part.had < part.amount:
                    one.unanswered += 1
                    found.setdefault(part.meter, []).append((one, part))
        return found

    def _conclude(self, waiting: Waiting, now: float, clock: Callable[[], float]) -> None:
        lacking = [part for part in waiting.parts if part.had < part.amount]
        if waiting.future.done():
            self._refuse(waiting, None, now)
        elif lacking and not waiting.again and all(one.meter.unit == SLOT for one in lacking):
            self._park(waiting, now, clock)
        elif lacking:
            self._refuse(waiting, lacking, now)
        else:
            taken: list[Meter] = [part.meter for part in waiting.parts]
            marks = [part.since for part in waiting.parts]
            waiting.future.set_result(Reservation(taken, waiting.amounts, now, clock, marks))

    def _park(self, waiting: Waiting, now: float, clock: Callable[[], float]) -> None:
        """A slot that is free already may not have been told of by another gateway: who calls one
        after the other, at one gateway after the other, always has one. It asks once more."""
        waiting.again = True
        for part in waiting.parts:
            part.forgo(now)
        self._parked.append((self._ticks + _SLOT_TOLD, waiting, clock))
        self._wake(False)

    def _unpark(self, now: float, closing: bool) -> None:
        while self._parked and (closing or self._parked[0][0] <= self._ticks):
            _, waiting, clock = self._parked.popleft()
            if waiting.future.done():
                continue
            waiting.unanswered = 0
            for part in waiting.parts:
                part.borrow(now)
            self._enter(waiting, now, clock)
        if self._parked:
            self._wake(False)

    def _refuse(self, waiting: Waiting, reason: APIError | list[Part] | None, now: float) -> None:
        for part in waiting.parts:
            part.forgo(now)
        if isinstance(reason, list):
            reason = worst([part.meter.refusal(part.amount, now) for part in reason])
        if reason is not None and not waiting.future.done():
            waiting.future.set_exception(reason)

    def _stir(self, meter: Leased, urgent: bool = False) -> None:
        self._dirty[meter] = None
        self._wake(urgent)
