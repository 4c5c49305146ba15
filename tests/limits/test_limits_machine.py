"""Whatever happens in whatever order, no limit is exceeded and everything balances in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from gateway.config import LimitsConfig
from gateway.errors import QuotaExceededError, RateLimitError
from gateway.limits import Limiter, Reservation
from gateway.tenants import Account, Budget, Limits, Unit, Window
from tests.limits.conftest import MONDAY, Clock

ROUNDING = 1e-3
NAMES = ("key:k", "team:t")

WINDOWS: tuple[Window, ...] = ("hour", "day", "week", "month", "total")

Place = tuple[str, Unit, Window, float]

budgets = st.builds(
    Budget,
    unit=st.sampled_from(["tokens", "currency"]),
    amount=st.integers(0, 300),
    window=st.sampled_from(["hour", "day", "week", "month", "total"]),
)
limits = st.builds(
    Limits,
    rpm=st.none() | st.integers(0, 12),
    tpm=st.none() | st.integers(0, 200),
    max_concurrent=st.none() | st.integers(0, 5),
    budgets=st.lists(
        budgets, max_size=3, unique_by=lambda budget: (budget.unit, budget.window)
    ).map(tuple),
)


@dataclass
class Taken:
    """What a request holds, or has used in the end, of the time when it came."""

    at: float
    requests: int
    tokens: int


@dataclass
class Running:
    reservation: Reservation
    taken: Taken
    tokens: int
    cost: int
    places: list[Place]


class LimitsMachine(RuleBasedStateMachine):
    """Keeps its own books of one key and its team: `taken` since the limits were last edited;
    `spent` is by unit and window, of all that there could be budgets of."""

    running = Bundle("running")

    @initialize(key=limits, team=limits)
    def begin(self, key: Limits, team: Limits) -> None:
        self.clock = Clock(MONDAY)
        self.limiter = Limiter(LimitsConfig(), self.clock)
        self.limits = dict(zip(NAMES, (key, team), strict=True))
        self.alive: list[Running] = []
        self.taken: list[Taken] = []
        self.spent: Counter[Place] = Counter()
        self.limiter.headers(self.accounts)

    @property
    def accounts(self) -> tuple[Account, ...]:
        return tuple(Account(name, limit) for name, limit in self.limits.items())

    @rule(name=st.sampled_from(NAMES), to=limits)
    def edit(self, name: str, to: Limits) -> None:
        self.limits[name] = to
        self.taken = []
        self.limiter.headers(self.accounts)

    @rule(seconds=st.sampled_from([0.001, 0.5, 3.0, 59.0, 60.0, 3600.0, 86_400.0, 2_700_000.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(target=running, tokens=st.integers(0, 120), cost=st.integers(0, 120))
    def reserve(self, tokens: int, cost: int) -> object:
        before = self.limiter.headers(self.accounts)
        try:
            found = self.limiter.reserve(self.accounts, tokens, cost)
        except (RateLimitError, QuotaExceededError):
            assert self.limiter.headers(self.accounts) == before  # nothing was taken
            assert any(self.lacks(account, tokens, cost) for account in self.accounts)
            return multiple()
        assert isinstance(found, Reservation)
        assert not any(self.lacks_counted(one, tokens, cost) for one in self.accounts)
        one = Running(found, Taken(self.clock.now, 1, tokens), tokens, cost, self.places())
        self.alive.append(one)
        self.taken.append(one.taken)
        self.count(one, tokens, cost)
        return one

    @rule(one=consumes(running), used=st.floats(0, 1))
    def settle(self, one: Running, used: float) -> None:
        tokens, cost = int(used * one.tokens), int(used * one.cost)
        one.reservation.settle(tokens, cost)
        self.alive.remove(one)
        one.taken.tokens = tokens
        self.count(one, tokens - one.tokens, cost - one.cost)

    @rule(one=consumes(running))
    def cancel(self, one: Running) -> None:
        one.reservation.cancel()
        self.alive.remove(one)
        one.taken.requests = one.taken.tokens = 0
        self.count(one, -one.tokens, -one.cost)

    def count(self, one: Running, tokens: int, cost: int) -> None:
        for place in one.places:
            self.spent[place] += tokens if place[1] == "tokens" else cost

    def places(self) -> list[Place]:
        """Where a request of now is counted."""
        units: tuple[Unit, ...] = "tokens", "currency"
        return [
            self.place(name, unit, window) for name, unit, window in product(NAMES, units, WINDOWS)
        ]

    def place(self, name: str, unit: Unit, window: Window) -> Place:
        return name, unit, window, window_start(window, self.clock.now)

    def used(self, name: str, budget: Budget) -> int:
        """In its window, whether or not it was there."""
        return self.spent[self.place(name, budget.unit, budget.window)]

    def lacks(self, account: Account, tokens: int, cost: int) -> bool:
        """Whether a refusal is right, by what the client is shown and by these books."""
        told = dict(self.limiter.headers((account,)))
        return (
            int(told.get(b"x-ratelimit-remaining-requests", 1)) < 1
            or int(told.get(b"x-ratelimit-remaining-tokens", tokens)) < tokens
            or self.lacks_counted(account, tokens, cost)
        )

    def lacks_counted(self, account: Account, tokens: int, cost: int) -> bool:
        most = account.limits.max_concurrent
        if most is not None and len(self.alive) >= most:
            return True
        for budget in account.limits.budgets:
            amount = tokens if budget.unit == "tokens" else cost
            if amount and self.used(account.id, budget) + amount > budget.amount:
                return True
        return False

    @invariant()
    def no_interval_has_more_than_a_full_bucket_and_its_refill(self) -> None:
        requests = [(one.at, one.requests) for one in self.taken]
        tokens = [(one.at, one.tokens) for one in self.taken]
        for limit in self.limits.values():
            for size, moves in ((limit.rpm, requests), (limit.tpm, tokens)):
                if size is not None:
                    assert most_over(size, moves, self.clock.now) <= ROUNDING

    def teardown(self) -> None:
        for one in list(self.alive):
            self.settle(one, 0.5)
        self.clock.now += 60
        for name, value in self.limiter.headers(self.accounts):
            assert b"-reset-" not in name or value == b"0s"
        for account in self.accounts:
            limit = account.limits
            told = dict(self.limiter.headers((account,)))
            assert told.get(b"x-ratelimit-remaining-requests") == _text(limit.rpm)
            assert told.get(b"x-ratelimit-remaining-tokens") == _text(limit.tpm)
            rooms = [
                max(0, budget.amount - self.used(account.id, budget))
                for budget in limit.budgets
                if budget.unit == "tokens"
            ]
            if limit.tpm is not None:
                rooms.append(limit.tpm)
            assert self.limiter.capacity((account,)) == min(rooms, default=None)


def most_over(limit: int, moves: list[tuple[float, int]], now: float) -> float:
    """By how much an interval that ends now has more in it than a full bucket and its refill. One
    that doesn't begin at a move can't be worse."""
    worst, total = 0.0, 0
    for at, amount in reversed(moves):
        total += amount
        worst = max(worst, total - limit - (now - at) * limit / 60)
    return worst


def window_start(window: Window, at: float) -> float:
    """By the calendar."""
    moment = datetime.fromtimestamp(at, UTC).replace(minute=0, second=0, microsecond=0)
    if window == "total":
        return 0.0
    if window != "hour":
        moment = moment.replace(hour=0)
    if window == "week":
        moment -= timedelta(days=moment.weekday())
    if window == "month":
        moment = moment.replace(day=1)
    return moment.timestamp()


def _text(limit: int | None) -> bytes | None:
    return None if limit is None else b"%d" % limit


TestLimits = LimitsMachine.TestCase
TestLimits.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
