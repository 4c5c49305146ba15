"""Limiters on a clock that the tests set."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.config import LimitsConfig
from gateway.limits import Limiter, Reservation
from gateway.store.usage import Spent, window_start
from gateway.tenants import Account, Budget, Limits, Window

# Monday, 2027-01-18 08:00:00 UTC.
MONDAY = 1_800_259_200.0


class Clock:
    """Seconds since the epoch, as far as a test lets them pass."""

    def __init__(self, now: float = MONDAY) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(LimitsConfig(), clock)


Reserve = Callable[..., Reservation]


@pytest.fixture
def reserve(limiter: Limiter) -> Reserve:
    """Reserve at once, for accounts given one by one."""

    def at_once(*accounts: Account, tokens: int = 1, cost: int = 0) -> Reservation:
        return now(limiter, accounts, tokens, cost)

    return at_once


def now(
    limiter: Limiter, accounts: tuple[Account, ...], tokens: int = 1, cost: int = 0
) -> Reservation:
    """A reservation that nobody has to be asked for."""
    found = limiter.reserve(accounts, tokens, cost)
    assert isinstance(found, Reservation)
    return found


def key(
    rpm: int | None = None,
    tpm: int | None = None,
    concurrent: int | None = None,
    budgets: tuple[Budget, ...] = (),
    name: str = "key:k",
) -> Account:
    return Account(name, Limits(rpm, tpm, concurrent, budgets))


def team(
    rpm: int | None = None,
    tpm: int | None = None,
    concurrent: int | None = None,
    budgets: tuple[Budget, ...] = (),
) -> Account:
    return key(rpm, tpm, concurrent, budgets, "team:t")


def spent(account: str, window: Window, tokens: int, at: float = MONDAY) -> Spent:
    """What the ledger says at a time."""
    return Spent(account, "tokens", window, window_start(window, at), tokens)
