"""What a request holds while it is here: a place in the queue and in the engine, a share of its
accounts' limits, and a line of the ledger. All of it is given back, settled and written exactly
once, however the request ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from gateway.admission import Admission, Demand, Permit
from gateway.call import InterruptedCallError, Usage
from gateway.deployments import Deployment
from gateway.errors import (
    CLIENT_CLOSED,
    APIError,
    DeadlineError,
    OverloadedError,
    UnavailableError,
    as_api_error,
)
from gateway.ledger import Entry, Ledger
from gateway.limits import Limiter, Reservation
from gateway.tenants import Price, Principal


class Holds:
    """Opens holds."""

    def __init__(self, admission: Admission, limiter: Limiter, ledger: Ledger) -> None:
        self._admission = admission
        self._limiter = limiter
        self._ledger = ledger

    def open(
        self,
        deployment: Deployment,
        principal: Principal,
        entry: Entry,
        returning: bool | None = None,
    ) -> Hold:
        """Before any work is done for the request. Raises APIError where it is refused already."""
        self._ledger.require_room()
        self._limiter.check(principal.accounts)
        permit = self._admission.enter(deployment.replica.name, principal, returning=returning)
        deployment.enter()
        return Hold(deployment, principal, entry, permit, self._limiter, self._ledger)


class Hold:
    """One request's. `close` in any case."""

    def __init__(
        self,
        deployment: Deployment,
        principal: Principal,
        entry: Entry,
        permit: Permit,
        limiter: Limiter,
        ledger: Ledger,
    ) -> None:
        self.permit = permit
        self.entry = entry
        self._deployment = deployment
        self._principal = principal
        self._limiter = limiter
        self._ledger = ledger
        self._reservation: Reservation | None = None
        self._prompt_tokens = 0
        self._closed = False

    @property
    def price(self) -> Price:
        return self._deployment.price

    @property
    def capacity(self) -> int | None:
        """The most tokens a request of these accounts could ever have; None: any number."""
        accounts = self._principal.accounts
        return self._limiter.capacity(accounts) if accounts else None

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> Awaitable[None] | None:
        """Take the most the request can use from its accounts; to be awaited where the answer is
        another gateway's. Raises APIError, also when awaited."""
        accounts = self._principal.accounts
        if not accounts:
            return None
        cost = self.price.cost(prompt_tokens, 0, completion_tokens)
        found = self._limiter.reserve(accounts, prompt_tokens + completion_tokens, cost)
        if isinstance(found, Reservation):
            self._reservation = found
            return None
        return self._leased(found)

    async def _leased(self, pending: Awaitable[Reservation]) -> None:
        self._reservation = await pending

    def demand(
        self, prompt_tokens: int, sequences: int, max_tokens: int, deadline: float | None
    ) -> Demand:
        """The request as the queue sees it."""
        who = self._principal
        return Demand(
            tenant=who.tenant,
            weight=who.weight,
            priority=who.priority,
            prompt_tokens=prompt_tokens,
            sequences=sequences,
            max_tokens=max_tokens,
            deadline=deadline,
        )

    def begin(self, prompt_tokens: int) -> None:
        """The engine is about to be given the request: should this program die, it is known.
        Raises UnavailableError where that can't be written down."""
        if not self.entry.begun:
            self.entry.prompt_tokens = self._prompt_tokens = prompt_tokens
            self._ledger.begin(self.entry)

    def close(self, used: Usage, arrived: float, failure: BaseException | None) -> None:
        """Give everything back, settle what was `used`, write it down. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.permit.release()
        self._deployment.leave()
        entry = self.entry
        cost = _cost(self.price, used)
        if self._reservation is not None:
            self._settle(self._reservation, used, failure)
        entry.prompt_tokens = used.prompt_tokens
        entry.cached_tokens = used.cached_tokens
        entry.completion_tokens = used.completion_tokens
        entry.cost = cost
        entry.queue_s = self.permit.queued_s
        entry.total_s = time.perf_counter() - arrived
        conclude(entry, failure)
        self._ledger.record(entry)

    def _settle(self, reservation: Reservation, used: Usage, failure: BaseException | None) -> None:
        if not self.entry.begun and not isinstance(failure, InterruptedCallError):
            reservation.cancel()
            return
        if self.entry.begun and _by_client(failure) and not used.total_tokens:
            # The engine may have read most of the prompt without having told of it. Were that free,
            # who hangs up in time would have it for nothing.
            used = Usage(self._prompt_tokens, 0, 0)
        reservation.settle(used.total_tokens, _cost(self.price, used))


def _cost(price: Price, used: Usage) -> int:
    return price.cost(used.prompt_tokens, used.cached_tokens, used.completion_tokens)


def _by_client(failure: BaseException | None) -> bool:
    """Whether the client ended the request, itself or by the time it gave it."""
    if isinstance(failure, InterruptedCallError):
        return failure.cause == "disconnect"
    return isinstance(failure, DeadlineError)


def conclude(entry: Entry, failure: BaseException | None) -> None:
    """Say in `entry` how the request ended."""
    if failure is None:
        entry.outcome, entry.status = "completed", 200
        return
    if isinstance(failure, InterruptedCallError):
        gone = failure.cause == "disconnect"
        entry.outcome, entry.status = ("cancelled", CLIENT_CLOSED) if gone else ("interrupted", 503)
        return
    if isinstance(failure, asyncio.CancelledError):
        entry.outcome, entry.status = "interrupted", 503
        return
    known = as_api_error(failure) if isinstance(failure, Exception) else APIError("")
    entry.status, entry.code = known.status, known.code
    if isinstance(known, DeadlineError) and entry.begun:
        entry.outcome = "cancelled"
        return
    refused = known.status < 500 or isinstance(known, (OverloadedError, UnavailableError))
    entry.outcome = "rejected" if refused and not entry.begun else "failed"
