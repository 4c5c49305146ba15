"""How long the queue may be: who is refused, and when he is told to come back."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from gateway.admission.demand import Demand, Ticket
from gateway.admission.fair_queue import CLASSES, FairQueue
from gateway.admission.flows import Flow
from gateway.admission.gate import Gate
from gateway.admission.prediction import Prediction
from gateway.admission.promises import Promises
from gateway.config import AdmissionConfig
from gateway.errors import OverloadedError
from gateway.tenants import Principal, Priority

T = TypeVar("T", bound=Ticket)

# Told to the refused while no rate was measured.
RETRY_UNKNOWN_S = 1.0
# Of a tenant's bounds, as much may be held for those who were told to come back.
HELD_SHARE = 0.5


class Size(NamedTuple):
    """Requests and prompt tokens."""

    requests: float
    tokens: int


class Bounds(Generic[T]):
    """Of one replica's queue.

    Requests that are still being rendered count as waiting, but for those there is room for in the
    engine. Where the whole queue is full, the request of a tenant with less waiting takes the place
    of the last of the tenant with the most: two floods must not close the door to a third tenant.
    """

    def __init__(
        self, config: AdmissionConfig, queue: FairQueue[T], gate: Gate, prediction: Prediction
    ) -> None:
        self._config = config
        self._queue = queue
        self._gate = gate
        self._prediction = prediction
        self._promises = Promises()
        self._rendering: dict[str, int] = {}
        self._rendered = 0

    def enter(self, principal: Principal, returning: bool | None, now: float) -> None:
        """A request is here, and will be rendered. Raises OverloadedError."""
        tenant = principal.tenant
        if len(self._queue) or self._rendered >= self._gate.free():
            self._check(principal, returning, now)
        self._rendered += 1
        self._rendering[tenant] = self._rendering.get(tenant, 0) + 1

    def rendered(self, tenant: str) -> None:
        """A request that entered is rendered, or gone."""
        self._rendered -= 1
        left = self._rendering[tenant] - 1
        if left:
            self._rendering[tenant] = left
        else:
            del self._rendering[tenant]

    def make_room(self, demand: Demand, now: float) -> list[T]:
        """Who has to leave the queue for this request. Raises OverloadedError where it has to
        itself."""
        config, queue = self._config, self._queue
        tenant, priority, weight = demand.tenant, demand.priority, demand.weight
        own = self._own(tenant, priority)
        own = Size(own.requests + 1, own.tokens + demand.prompt_tokens)
        if (
            own.requests > config.max_queued_per_tenant
            or own.tokens > config.max_queued_tokens_per_tenant
        ):
            raise self.refusal(_YOURS_FULL, tenant, priority, weight, now)
        over = Size(
            len(queue) + 1 - config.max_queued,
            queue.prompt_tokens + demand.prompt_tokens - config.max_queued_tokens,
        )
        leaving = self._displaced(priority, own, over)
        if leaving is None:
            raise self.full(demand, now)
        return leaving

    def full(self, demand: Demand, now: float) -> OverloadedError:
        """What to tell a request that left the queue for another."""
        return self.refusal(_FULL, demand.tenant, demand.priority, demand.weight, now)

    def refusal(
        self,
        message: str,
        tenant: str,
        priority: Priority,
        weight: float,
        now: float,
        wait_s: float = 0.0,
    ) -> OverloadedError:
        """What to tell a refused request: to come when there is a place for it, `wait_s` from now
        at the earliest and behind those of its tenant that were told so before."""
        rate = self._prediction.drain.requests_per_second(now)
        gap = 0.0
        if rate:
            gap = self._shares(tenant, priority, weight) / rate
        first = wait_s + gap if rate else max(wait_s, RETRY_UNKNOWN_S)
        retry_after_s = self._promises.give(tenant, first, gap, now)
        return OverloadedError(message, retry_after_s=retry_after_s)

    def _check(self, principal: Principal, returning: bool | None, now: float) -> None:
        config, tenant, priority = self._config, principal.tenant, principal.priority
        held = 0.0
        if returning is False or not self._promises.claim(tenant, now):
            held = self._promises.held(tenant, now)
        owed = self._queue.owed(tenant, priority, principal.weight, self._gate.seats)
        free = self._gate.free(owed=owed)
        own = self._own(tenant, priority)
        rendering = self._rendering.get(tenant, 0)
        mine = own.requests + rendering - free + 1
        most = config.max_queued_per_tenant
        if mine + min(held, HELD_SHARE * most) > most:
            raise self.refusal(_YOURS_FULL, tenant, priority, principal.weight, now)
        most = config.max_queued
        waiting = len(self._queue) + self._rendered - free + 1
        over = Size(
            waiting + min(held, HELD_SHARE * most) - most,
            self._queue.prompt_tokens + 1 - config.max_queued_tokens,
        )
        if self._displaced(priority, Size(own.requests + rendering + 1, own.tokens), over) is None:
            raise self.refusal(_FULL, tenant, priority, principal.weight, now)
        if config.max_ttft_s is not None and priority == "online":
            self._check_ttft(principal, rendering, held, config.max_ttft_s, now, owed=owed)

    def _check_ttft(
        self,
        principal: Principal,
        rendering: int,
        held: float,
        max_ttft_s: float,
        now: float,
        *,
        owed: bool,
    ) -> None:
        """Its own prompt doesn't count: that would be refused however often it came."""
        tenant, prediction = principal.tenant, self._prediction
        ahead = self._queue.ahead(
            tenant, principal.priority, principal.weight, prediction.completion_tokens
        )
        ahead.sequences += rendering
        found = prediction.ttft(ahead, 0, now, owed=owed)
        if found is None:
            return
        if held:
            rate = prediction.drain.requests_per_second(now) or held
            found += min(held / rate, HELD_SHARE * max_ttft_s)
        if found > max_ttft_s:
            message = (
                f"The first token would take about {found:.1f} s, and the server's limit is "
                f"{max_ttft_s:g} s; retry later."
            )
            wait_s = found - max_ttft_s
            raise self.refusal(message, tenant, principal.priority, principal.weight, now, wait_s)

    def _own(self, tenant: str, priority: Priority) -> Size:
        flow = self._queue.flow(tenant, priority)
        return Size(len(flow.waiting), flow.prompt_tokens) if flow else Size(0, 0)

    def _displaced(self, priority: Priority, own: Size, over: Size) -> list[T] | None:
        """Those who leave where the queue is `over` its bounds, for a request with which its flow
        is of the size `own`: the last ones of the largest flow of a lower class, or of the same
        class if that stays as large as this. None where there are none such."""
        if over.requests <= 0 and over.tokens <= 0:
            return []
        by_tokens = over.requests <= 0
        for name in reversed(CLASSES[CLASSES.index(priority) :]):
            flows = list(self._queue.flows(name))
            if not flows:
                continue
            largest = max(flows, key=lambda flow: _size(flow)[by_tokens])
            floor = own[by_tokens] if name == priority else 0
            found = _last_of(largest, over, floor, by_tokens)
            if found is not None:
                return found
        return None

    def _shares(self, tenant: str, priority: Priority, weight: float) -> float:
        """How many times what the tenant gets all get that wait with it."""
        total = weight
        for flow in self._queue.flows(priority):
            if flow.tenant != tenant and flow.active:
                total += flow.waiting[0].demand.weight
        return total / weight


_FULL = "The server has too many requests waiting; retry later."
_YOURS_FULL = "Too many of your requests are waiting; retry later."


def _size(flow: Flow[T]) -> Size:
    return Size(len(flow.waiting), flow.prompt_tokens)


def _last_of(flow: Flow[T], over: Size, floor: float, by_tokens: bool) -> list[T] | None:
    """So many of a flow's last requests that nothing is `over`, if it keeps its `floor`."""
    found: list[T] = []
    requests, tokens = _size(flow)
    for ticket in reversed(flow.waiting):
        found.append(ticket)
        requests -= 1
        tokens -= ticket.demand.prompt_tokens
        over = Size(over.requests - 1, over.tokens - ticket.demand.prompt_tokens)
        if (tokens if by_tokens else requests) < floor:
            return None
        if over.requests <= 0 and over.tokens <= 0:
            return found
    return None
