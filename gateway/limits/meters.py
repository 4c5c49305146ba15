"""What counts one limit of one account. Pure: the time is told.

A meter's `take` and `settle` are on the path of every request; what explains a refusal may be slow.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil, inf
from typing import TYPE_CHECKING, Final, Protocol

from gateway.limits.refusals import BudgetRefusal, Kind, RateRefusal, Refusal
from gateway.store.usage import Spent
from gateway.tenants import Budget

if TYPE_CHECKING:
    from gateway.limits.use import Use

MINUTE_S = 60.0
# What a request takes of each: amounts = (a request, its tokens, its cost, a slot).
REQUEST: Final = 0
TOKENS: Final = 1
COST: Final = 2
SLOT: Final = 3

# Until the first request of an account has ended, nothing tells how long they take.
_FIRST_GUESS_S = 1.0
_LEAST_WAIT_S = 0.05
_MOST_WAIT_S = 60.0


class Meter(Protocol):
    """One limit of one account. `kind` names it among the account's; `unit` says what of a request
    it counts."""

    account: str
    kind: str
    unit: int

    @property
    def limit(self) -> int | None:
        """None: it only counts."""

    def take(self, amount: int, now: float) -> bool:
        """Take `amount` if there is as much; nothing else."""

    @property
    def mark(self) -> float:
        """Right after `take`: what `settle` has to be told of it."""

    def settle(self, reserved: int, used: int, at: float, mark: float, now: float) -> None:
        """Of the `reserved`, taken at `at` and by this `mark`, only `used` were used."""

    def lack(self, amount: int, now: float) -> Refusal | None:
        """Why `amount` can't be taken; None where it can."""

    def left(self, now: float) -> int:
        """How much there is to take."""

    def full_in(self, now: float) -> float:
        """Seconds until all of the limit is there again, by time alone."""

    def most(self, now: float) -> int:
        """The most that could be taken at once as soon as everything that runs has ended."""

    def idle(self, now: float) -> bool:
        """Whether a new meter would be in the same state."""

    def edit(self, limit: int | None, now: float) -> bool:
        """From now on the limit is another. False: that takes another meter."""

    def learn(self, spent: Spent, now: float) -> None:
        """What has ended used no less than this."""


class Bucket:
    """`limit` a minute: full at first, refilled continuously.

    What is refilled is what was taken first. What comes back of a reservation is only what of it
    hasn't been refilled yet: else who holds many could use them all again at once. So in no time
    is more used than a full bucket and what is refilled in it.
    """

    __slots__ = ("_at", "_lots", "_rate", "account", "kind", "limit", "mark", "unit", "used")

    def __init__(self, account: str, kind: str, unit: int, limit: int, now: float) -> None:
        self.account = account
        self.kind = kind
        self.unit = unit
        self.limit = limit
        self.used = 0.0
        # All that was ever taken, by which a reservation is known; and what isn't refilled of each.
        self.mark = 0.0
        self._lots: OrderedDict[float, float] = OrderedDict()
        self._rate = limit / MINUTE_S
        self._at = now

    def take(self, amount: int, now: float) -> bool:
        if now != self._at:
            if now > self._at and self._lots:  # a clock that was set back refills nothing
                self._refill((now - self._at) * self._rate)
            self._at = now
        if not amount:
            return True
        if self.used + amount > self.limit:
            return False
        self.used += amount
        self.mark += amount
        self._lots[self.mark] = amount
        return True

    def settle(self, reserved: int, used: int, at: float, mark: float, now: float) -> None:
        if reserved <= used:
            return
        self.take(0, now)
        lot = self._lots.get(mark, 0.0)
        left = max(0.0, lot - (reserved - used))
        self.used -= lot - left
        if left:
            self._lots[mark] = left
        else:
            self._lots.pop(mark, None)
            self._round()

    def _refill(self, amount: float) -> None:
        lots = self._lots
        while lots and amount > 0:
            mark, lot = lots.popitem(last=False)
            self.used -= min(lot, amount)
            if lot > amount:
                lots[mark] = lot - amount
                lots.move_to_end(mark, last=False)
            amount -= lot
        self._round()

    def _round(self) -> None:
        if not self._lots:  # what is left are errors of rounding
            self.used = 0.0

    def lack(self, amount: int, now: float) -> Refusal | None:
        self.take(0, now)
        missing = self.used + amount - self.limit
        if missing <= 0 or not amount:
            return None
        wait = inf if amount > self.limit else milliseconds_up(missing / self._rate)
        kind: Kind = "tokens" if self.unit == TOKENS else "requests"
        return RateRefusal(self.account, kind, self.limit, ceil(self.used), amount, wait)

    def left(self, now: float) -> int:
        self.take(0, now)
        return max(0, int(self.limit - self.used))

    def full_in(self, now: float) -> float:
        self.take(0, now)
        return self.used / self._rate if self._rate else 0.0

    def most(self, now: float) -> int:
        return self.limit

    def idle(self, now: float) -> bool:
        self.take(0, now)
        return not self.used

    def edit(self, limit: int | None, now: float) -> bool:
        if limit is None:
            return False
        self.take(0, now)  # up to now it was refilled at the rate it had
        self.limit = limit
        self._rate = limit / MINUTE_S
        # A much lower limit would take as much longer to refill what the old one allowed.
        self._refill(self.used - limit)
        return True

    def learn(self, spent: Spent, now: float) -> None:
        """Only budgets look back."""


class Spending:
    """A budget: so much in each calendar window. It only looks at the account's `use`, where every
    request is counted, budget or not."""

    __slots__ = ("_use", "account", "kind", "limit", "unit", "window")
    mark = 0.0

    def __init__(self, account: str, kind: str, budget: Budget, use: Use) -> None:
        self.account = account
        self.kind = kind
        self.unit = use.unit
        self.limit = budget.amount
        self.window = budget.window
        self._use = use

    def take(self, amount: int, now: float) -> bool:
        return not amount or self._use.used(self.window, now) + amount <= self.limit

    def settle(self, reserved: int, used: int, at: float, mark: float, now: float) -> None:
        """It is settled where it is counted."""

    def lack(self, amount: int, now: float) -> Refusal | None:
        if self.take(amount, now):
            return None
        used = self._use.used(self.window, now)
        hopeless = used - self._use.held(self.window, now) + amount > self.limit
        return BudgetRefusal(
            account=self.account,
            unit="tokens" if self.unit == TOKENS else "currency",
            window=self.window,
            limit=self.limit,
            used=used,
            requested=amount,
            ends=self._use.ends(self.window),
            wait_s=None if hopeless else _FIRST_GUESS_S,
        )

    def left(self, now: float) -> int:
        return max(0, self.limit - self._use.used(self.window, now))

    def full_in(self, now: float) -> float:
        return self._use.ends(self.window) - now if self._use.used(self.window, now) else 0.0

    def most(self, now: float) -> int:
        settled = self._use.used(self.window, now) - self._use.held(self.window, now)
        return max(0, self.limit - settled)

    def idle(self, now: float) -> bool:
        return True

    def edit(self, limit: int | None, now: float) -> bool:
        if limit is None:
            return False
        self.limit = limit
        return True

    def learn(self, spent: Spent, now: float) -> None:
        """It has been told to the `use`."""


class Slots:
    """So many requests at once; a limit of None counts them only, for one that may come."""

    __slots__ = ("_lasted_s", "_turns", "account", "busy", "kind", "limit", "unit")
    mark = 0.0

    def __init__(self, account: str, limit: int | None) -> None:
        self.account = account
        self.kind = "concurrent"
        self.unit = SLOT
        self.limit = limit
        self.busy = 0
        self._lasted_s = _FIRST_GUESS_S
        self._turns = Turns()

    def take(self, amount: int, now: float) -> bool:
        if self.limit is not None and self.busy + amount > self.limit:
            return False
        self.busy += amount
        return True

    def settle(self, reserved: int, used: int, at: float, mark: float, now: float) -> None:
        self.busy -= reserved
        if now > at:
            self._lasted_s += 0.1 * (now - at - self._lasted_s)

    def lack(self, amount: int, now: float) -> Refusal | None:
        if self.limit is None or self.busy + amount <= self.limit:
            return None
        wait = inf
        if self.limit:
            wait = self._turns.next(until_one_ends(self._lasted_s, self.limit), now)
        return RateRefusal(self.account, "concurrent", self.limit, self.busy, amount, wait)

    def left(self, now: float) -> int:
        return 0 if self.limit is None else max(0, self.limit - self.busy)

    def full_in(self, now: float) -> float:
        return self._lasted_s if self.busy else 0.0

    def most(self, now: float) -> int:
        return self.limit or 0

    def idle(self, now: float) -> bool:
        return not self.busy

    def edit(self, limit: int | None, now: float) -> bool:
        self.limit = limit
        return True

    def learn(self, spent: Spent, now: float) -> None:
        """Only budgets look back."""


class Turns:
    """When each who is refused a slot should return: one after the other, as slots become free."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0.0

    def next(self, apart_s: float, now: float) -> float:
        """Seconds until the turn of one who is refused now; slots are free `apart_s` apart."""
        # Whoever returns too early takes another turn: they must not add up for ever.
        self._last = min(max(self._last, now) + apart_s, now + _MOST_WAIT_S)
        return self._last - now


def until_one_ends(lasted_s: float, running: int) -> float:
    """When one of `running` requests that take `lasted_s` each can be expected to end."""
    return min(max(lasted_s / running, _LEAST_WAIT_S), _MOST_WAIT_S)


def milliseconds_up(seconds: float) -> float:
    """So that who waits as long as told doesn't come a moment too early."""
    return (int(seconds * 1000) + 1) / 1000
