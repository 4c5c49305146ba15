"""Decides whether a request may go by the limits of its accounts, and takes its share of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain

from gateway.config import LimitsConfig
from gateway.errors import APIError
from gateway.limits.accounts import Accounts
from gateway.limits.headers import Headers, headers_of
from gateway.limits.leasing import Leasing
from gateway.limits.meters import TOKENS, Meter
from gateway.limits.refusals import worst
from gateway.limits.reservation import Amounts, Reservation, amounts_of
from gateway.limits.shared import SharedLimits
from gateway.store.usage import Spent
from gateway.tenants import Account

# What every request takes at least; it may be free.
_LEAST: Amounts = (1, 1, 0, 1)


class Limiter:
    """The limits of all accounts, as each call brings them along: an edit acts at once.

    A request holds its share of all its accounts, a key and its team, or of none. `clock` tells
    seconds since the epoch. With `shared` the limits are kept together with other gateways.
    """

    def __init__(
        self,
        config: LimitsConfig,
        clock: Callable[[], float] = time.time,
        shared: SharedLimits | None = None,
    ) -> None:
        self._clock = clock
        self._accounts = Accounts()
        self._leasing: Leasing | None = None
        if shared is not None:
            self._leasing = Leasing(config, shared, clock)
            self._clock = self._leasing.now
            self._accounts = Accounts(self._leasing.make_meter)

    def check(self, accounts: tuple[Account, ...]) -> None:
        """Raises RateLimitError, QuotaExceededError (429) where no request at all could be
        reserved now."""
        now = self._clock()
        if (refusal := self._refusal(accounts, _LEAST, now, early=True)) is not None:
            raise refusal

    def reserve(
        self, accounts: tuple[Account, ...], tokens: int, cost: int
    ) -> Reservation | Awaitable[Reservation]:
        """Take a request of at most `tokens` tokens (prompt and completion) and `cost` nano-units
        of currency from every account.

        To be awaited only where another gateway's part of a limit has to be had first. Raises
        RateLimitError, QuotaExceededError (429), UnavailableError (503) at once or when awaited.
        """
        now = self._clock()
        amounts = amounts_of(tokens, cost)
        taken: list[Meter] = []
        for account in accounts:
            for meter in self._accounts.meters(account, now):
                if not meter.take(amounts[meter.unit], now):
                    for one in taken:
                        one.settle(amounts[one.unit], 0, now, one.mark, now)
                    return self._lacking(accounts, amounts, now)
                taken.append(meter)
        return Reservation(taken, amounts, now, self._clock)

    def capacity(self, accounts: tuple[Account, ...]) -> int | None:
        """The most tokens that one request could have as soon as everything that runs has ended;
        None: any number."""
        now = self._clock()
        found = [
            meter.most(now)
            for meter in self._all(accounts, now)
            if meter.unit == TOKENS and meter.limit is not None
        ]
        return min(found, default=None)

    def headers(self, accounts: tuple[Account, ...]) -> Headers:
        """OpenAI's `x-ratelimit-…` headers, of the account that has least left of each kind."""
        now = self._clock()
        return headers_of(self._all(accounts, now), now)

    def restore(self, spent: Iterable[Spent]) -> None:
        """Take over what was used before this program started."""
        self._accounts.restore(spent, self._clock())

    def at_least(self, spent: Iterable[Spent]) -> None:
        """Requests that have ended used no less than this: to be called with what the ledger says
        when a budget has been given of which this gateway can't have seen all use, one in total
        or one that is shared."""
        self._accounts.at_least(spent, self._clock())

    async def start(self) -> None:
        """Raises ConfigError where what the limits are shared through can't be reached."""
        if self._leasing is not None:
            await self._leasing.start()

    async def close(self) -> None:
        """Give back what is held of shared limits."""
        if self._leasing is not None:
            await self._leasing.close()

    def _all(self, accounts: tuple[Account, ...], now: float) -> Iterable[Meter]:
        return chain.from_iterable(self._accounts.meters(account, now) for account in accounts)

    def _lacking(
        self, accounts: tuple[Account, ...], amounts: Amounts, now: float
    ) -> Awaitable[Reservation]:
        """There isn't enough here; whether there is elsewhere has to be asked."""
        if (refusal := self._refusal(accounts, amounts, now)) is not None:
            raise refusal
        if self._leasing is None:
            raise RuntimeError("a limit refuses what it has")
        return self._leasing.borrow(self._all(accounts, now), amounts)

    def _refusal(
        self, accounts: tuple[Account, ...], amounts: Amounts, now: float, *, early: bool = False
    ) -> APIError | None:
        """What keeps the caller away for longest, as far as is known here. `early`: how many tokens
        the request has isn't known yet."""
        lacks = [meter.lack(amounts[meter.unit], now) for meter in self._all(accounts, now)]
        known = [lack for lack in lacks if lack is not None]
        return worst(known, early=early) if known else None
