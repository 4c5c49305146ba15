"""Why an account's request isn't taken, and how its caller is told."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import Literal

import msgspec

from gateway.errors import APIError, QuotaExceededError, RateLimitError
from gateway.limits.durations import duration
from gateway.tenants import NANOS, Unit, Window

_REDUCE = "The input or output tokens must be reduced in order to run successfully."

Kind = Literal["requests", "tokens", "concurrent"]

_NAMES: dict[Kind, str] = {
    "requests": "requests per min (RPM)",
    "tokens": "tokens per min (TPM)",
    "concurrent": "concurrent requests",
}


class RateRefusal(msgspec.Struct, frozen=True):
    """A rate or the number of concurrent requests doesn't allow `requested` more now. `wait_s`:
    when it would, as far as that can be known; infinite where it never will.
    `requested`: None where that isn't known yet."""

    account: str
    kind: Kind
    limit: int
    used: int
    requested: int | None
    wait_s: float

    @property
    def weight(self) -> tuple[int, float]:
        """The larger, the more it is what the caller has to know."""
        return (1 if self.wait_s == inf else 0), self.wait_s

    def error(self) -> APIError:
        kind: Literal["requests", "tokens"] = "tokens" if self.kind == "tokens" else "requests"
        if self.wait_s == inf:
            return RateLimitError(
                f"Request too large for {self.account} on {_NAMES[self.kind]}: Limit {self.limit}"
                f"{_requested(self.requested)}. {_REDUCE}",
                kind=kind,
                retry_after_s=None,
            )
        return RateLimitError(
            f"Rate limit reached for {self.account} on {_NAMES[self.kind]}: Limit {self.limit}, "
            f"Used {self.used}{_requested(self.requested)}. Please try again in "
            f"{duration(self.wait_s)}.",
            kind=kind,
            retry_after_s=self.wait_s,
        )


class BudgetRefusal(msgspec.Struct, frozen=True):
    """A budget doesn't hold `requested` more. `wait_s`: None where it won't in this window,
    whatever running requests give back; else when they may have."""

    account: str
    unit: Unit
    window: Window
    limit: int
    used: int
    requested: int | None
    ends: float
    wait_s: float | None

    @property
    def weight(self) -> tuple[int, float]:
        return (2, 0.0) if self.wait_s is None else (0, self.wait_s)

    def error(self) -> APIError:
        per = "in total" if self.window == "total" else f"per {self.window}"
        numbers = (
            f"Limit {self._shown(self.limit)} {per}, Used {self._shown(self.used)}"
            f"{_requested(self._shown(self.requested))}."
        )
        if self.wait_s is not None:
            return RateLimitError(
                f"Running requests of {self.account} hold what is left of its budget: {numbers} "
                f"Please try again in {duration(self.wait_s)}.",
                kind="tokens",
                retry_after_s=self.wait_s,
            )
        if self.requested is not None and self.requested > self.limit:
            return QuotaExceededError(
                f"Request too large for the budget of {self.account}: {numbers} {_REDUCE}"
            )
        renewed = ""
        if self.limit and self.ends != inf:
            renewed = f" It is renewed at {datetime.fromtimestamp(self.ends, UTC):%FT%TZ}."
        return QuotaExceededError(f"Budget of {self.account} exceeded: {numbers}{renewed}")

    def _shown(self, amount: int | None) -> str | None:
        if amount is None:
            return None
        return f"{amount} tokens" if self.unit == "tokens" else _money(amount)


Refusal = RateRefusal | BudgetRefusal


def _requested(shown: object) -> str:
    return "" if shown is None else f", Requested {shown}"


def _money(nanos: int) -> str:
    """In units of currency, no digits dropped that are not zero."""
    whole, part = divmod(max(nanos, 0), NANOS)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")


def worst(refusals: list[Refusal], *, early: bool = False) -> APIError:
    """The error of what keeps the caller away for longest; `early`: without the tokens or the money
    requested, which nobody knows yet."""
    found = max(refusals, key=lambda refusal: refusal.weight)
    if early and (isinstance(found, BudgetRefusal) or found.kind == "tokens"):
        found = msgspec.structs.replace(found, requested=None)
    return found.error()
