"""What the limits allow, kept a second time and simply, to hold the real ones against.

A bucket here gives back what is refunded up to its size, as generously as can be meant: the real
one may allow less than this, and never more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from gateway.tenants import Account, Budget, Window

_ROUNDING = 1e-6


def window_start(window: Window, at: float) -> float:
    """When the calendar window began that `at` lies in, both in seconds since the epoch."""
    if window == "total":
        return 0.0
    now = datetime.fromtimestamp(at, UTC).replace(minute=0, second=0, microsecond=0)
    if window != "hour":
        now = now.replace(hour=0)
    if window == "week":
        now -= timedelta(days=now.weekday())
    if window == "month":
        now = now.replace(day=1)
    return now.timestamp()


class Allowance:
    """Follows every reservation, and tells when more was allowed than may be."""

    def __init__(self, accounts: Iterable[Account], at: float, violated: Callable[[str], None]):
        self._books = {account.id: _Book(account, at) for account in accounts}
        self._violated = violated

    def reserve(self, accounts: Iterable[Account], tokens: int, cost: int, at: float) -> None:
        for account in accounts:
            fault = self._books[account.id].reserve(tokens, cost, at)
            if fault is not None:
                self._violated(f"over-admitted: {account.id}: {fault}")

    def settle(
        self,
        accounts: Iterable[Account],
        reserved: tuple[int, int, float],
        used: tuple[int, int] | None,
        at: float,
    ) -> None:
        """`reserved` are tokens, cost and when; `used` tokens and cost, None: never started."""
        for account in accounts:
            self._books[account.id].settle(reserved, used, at)

    def spent(self, account: str, budget: Budget, at: float) -> int:
        """What is used or reserved of a budget in the window of `at`."""
        start = window_start(budget.window, at)
        return self._books[account].spent.get((budget.unit, budget.window, start), 0)

    def running(self, account: str) -> int:
        return self._books[account].running


class _Bucket:
    def __init__(self, per_minute: int, at: float) -> None:
        self._size = per_minute
        self.level = float(per_minute)
        self._at = at

    def take(self, amount: int, at: float) -> bool:
        """Whether that much may be taken; a negative amount is given back."""
        grown = self.level + (at - self._at) * self._size / 60
        self._at = at
        self.level = min(min(grown, self._size) - amount, self._size)
        return self.level >= -_ROUNDING * self._size


class _Book:
    def __init__(self, account: Account, at: float) -> None:
        limits = account.limits
        self._limits = limits
        self._requests = None if limits.rpm is None else _Bucket(limits.rpm, at)
        self._tokens = None if limits.tpm is None else _Bucket(limits.tpm, at)
        self.running = 0
        self.spent: dict[tuple[str, Window, float], int] = {}

    def reserve(self, tokens: int, cost: int, at: float) -> str | None:
        """What was exceeded."""
        self.running += 1
        limits = self._limits
        if limits.max_concurrent is not None and self.running > limits.max_concurrent:
            return f"{self.running} at once of {limits.max_concurrent}"
        if self._requests is not None and not self._requests.take(1, at):
            return f"requests of {limits.rpm} a minute, by {-self._requests.level:g}"
        if self._tokens is not None and not self._tokens.take(tokens, at):
            return f"tokens of {limits.tpm} a minute, by {-self._tokens.level:g}"
        for budget in limits.budgets:
            amount = tokens if budget.unit == "tokens" else cost
            if self._spend(budget, amount, at) > budget.amount:
                return f"the budget of {budget.amount} {budget.unit} per {budget.window}"
        return None

    def settle(
        self, reserved: tuple[int, int, float], used: tuple[int, int] | None, at: float
    ) -> None:
        self.running -= 1
        tokens, cost, when = reserved
        used_tokens, used_cost = used or (0, 0)
        if self._requests is not None and used is None:
            self._requests.take(-1, at)
        if self._tokens is not None:
            self._tokens.take(used_tokens - tokens, at)
        for budget in self._limits.budgets:
            back = used_tokens - tokens if budget.unit == "tokens" else used_cost - cost
            self._spend(budget, back, when)

    def _spend(self, budget: Budget, amount: int, at: float) -> int:
        key = (budget.unit, budget.window, window_start(budget.window, at))
        self.spent[key] = self.spent.get(key, 0) + amount
        return self.spent[key]
