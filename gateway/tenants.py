"""Who is calling, what they may use and how much of it: the nouns that keys, limits, admission and
the ledger share. Nothing here decides anything.

A *team* owns limits that all its keys obey together; a key may have limits of its own beside them.
Each of the two is an *account* to the limits. The *tenant* is whose flow of the fair queue a
request is in: the team, or the key where it has none.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Priority = Literal["online", "batch"]
Window = Literal["hour", "day", "week", "month", "total"]
Unit = Literal["tokens", "currency"]

NANOS = 1_000_000_000
"""Parts of one unit of currency. Money is counted in whole numbers of these."""


class Budget(msgspec.Struct, frozen=True):
    """At most `amount` in each `window` (UTC calendar; weeks begin on Monday): tokens, or
    nano-units of currency."""

    unit: Unit
    amount: int
    window: Window = "month"


class Limits(msgspec.Struct, frozen=True):
    """What an account may use; None is no limit. `rpm` and `tpm` are requests and tokens (prompt
    and completion) per minute."""

    rpm: int | None = None
    tpm: int | None = None
    max_concurrent: int | None = None
    budgets: tuple[Budget, ...] = ()

    @property
    def any(self) -> bool:
        """Whether there is anything to obey."""
        return self != _NO_LIMITS


_NO_LIMITS = Limits()


class Account(msgspec.Struct, frozen=True):
    """Who limits are kept for: `key:…` or `team:…`."""

    id: str
    limits: Limits


class Scopes(msgspec.Struct, frozen=True):
    """What a key may use; None: everything. `models` are public names; `endpoints` are paths, each
    with all that is below it."""

    models: frozenset[str] | None = None
    endpoints: tuple[str, ...] | None = None

    def allow_model(self, name: str) -> bool:
        return self.models is None or name in self.models

    def allow_path(self, path: str) -> bool:
        """Whether requests to `path` are allowed; the list of models always is."""
        if self.endpoints is None or path == "/v1/models" or path.startswith("/v1/models/"):
            return True
        return any(path == end or path.startswith(end.rstrip("/") + "/") for end in self.endpoints)


class Principal(msgspec.Struct, frozen=True):
    """Who is calling.

    `name` is safe to log. `owner` is whose stored objects are seen, and the tenant of the fair
    queue. `key_id` and `team` are ids of the key store, for the ledger; None for keys of the
    configuration and where no key is needed.
    """

    name: str
    owner: str
    key_id: str | None = None
    team: str | None = None
    weight: float = 1.0
    priority: Priority = "online"
    scopes: Scopes = Scopes()
    accounts: tuple[Account, ...] = ()

    @property
    def tenant(self) -> str:
        return self.owner


ANONYMOUS = Principal("anonymous", "anonymous")


class Price(msgspec.Struct, frozen=True):
    """What a model's tokens cost, in nano-units of currency per million tokens."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def cost(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """Nano-units of currency for one request, rounded half up once."""
        millionths = (
            (prompt_tokens - cached_tokens) * self.prompt
            + cached_tokens * self.cached
            + completion_tokens * self.completion
        )
        return (millionths + 500_000) // 1_000_000
