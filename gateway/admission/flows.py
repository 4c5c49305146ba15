"""The flows of one priority class: who is next, and at which count a newcomer joins."""

from __future__ import annotations

from bisect import insort
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic, TypeAlias, TypeVar

from gateway.admission.demand import Ticket

T = TypeVar("T", bound=Ticket)

# Flows are looked through for such as can be forgotten whenever there are twice as many as were
# left the last time, and at least so many.
SWEEP_AT: Final = 1024
MAX_INDEBTED: Final = 10_000


class Flow(Generic[T]):
    """What one tenant has waiting in one class, in order, and the service it had: its counter."""

    __slots__ = (
        "counter", "entry", "joined", "lifts", "prompt_tokens", "running", "sequences",
        "tenant", "waiting", "weight",
    )  # fmt: skip

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.counter = 0.0
        self.waiting: list[T] = []
        self.prompt_tokens = 0
        self.sequences = 0
        self.running = 0
        self.lifts = 0
        self.joined = 0
        self.weight = 0.0
        # Its place in the heap, None where it isn't active.
        self.entry: Entry[T] | None = None

    @property
    def active(self) -> bool:
        """Whether something of it may be next."""
        return self.entry is not None

    def add(self, ticket: T) -> None:
        """At the end, or where it was if it comes back."""
        insort(self.waiting, ticket, key=_order)
        self.prompt_tokens += ticket.demand.prompt_tokens
        self.sequences += ticket.demand.sequences

    def remove(self, ticket: T) -> None:
        self.waiting.remove(ticket)
        self.prompt_tokens -= ticket.demand.prompt_tokens
        self.sequences -= ticket.demand.sequences


class Flows(Generic[T]):
    """The flows of one class. Those that have something waiting are `backlogged`; of these, those
    that may be next are *active*."""

    def __init__(self) -> None:
        self.by_tenant: dict[str, Flow[T]] = {}
        self.backlogged: dict[str, Flow[T]] = {}
        # Of those that are backlogged, together.
        self.weight = 0.0
        self._heap: list[Entry[T]] = []
        self._active = 0
        self._joins = 0
        self._level = 0.0
        self._last: Flow[T] | None = None
        self._sweep_at = SWEEP_AT

    def of(self, tenant: str) -> Flow[T]:
        flow = self.by_tenant.get(tenant)
        if flow is None:
            if len(self.by_tenant) >= self._sweep_at:
                self._sweep()
            flow = self.by_tenant[tenant] = Flow(tenant)
        return flow

    def add(self, ticket: T) -> Flow[T]:
        """It waits from now on."""
        flow = self.of(ticket.demand.tenant)
        if not flow.waiting:
            self.backlogged[flow.tenant] = flow
            flow.weight = ticket.demand.weight
            self.weight += flow.weight
        flow.add(ticket)
        return flow

    def remove(self, ticket: T) -> Flow[T]:
        """It waits no more."""
        flow = self.by_tenant[ticket.demand.tenant]
        flow.remove(ticket)
        if not flow.waiting:
            del self.backlogged[flow.tenant]
            self.weight = self.weight - flow.weight if self.backlogged else 0.0
            if flow.active:
                self.leave(flow)
        return flow

    def first(self) -> Flow[T] | None:
        """The active flow with the least counter; of several, as a newcomer always is one of, the
        one that runs least for its weight, and then the one that joined first."""
        heap = self._heap
        while heap:
            entry = heap[0]
            flow = entry[3]
            if entry is not flow.entry:
                heappop(heap)
            elif entry[0] < flow.counter:  # charged since
                flow.entry = _entry(flow)
                heapreplace(heap, flow.entry)
            else:
                return flow
        return None

    def level(self) -> float:
        """The count of who is next, or of who was last where nobody is active: what a flow has at
        least when it becomes active. It never falls."""
        first = self.first() or self._last
        if first is not None and first.counter > self._level:
            self._level = first.counter
        return self._level

    def join(self, flow: Flow[T], *, lift: bool = True) -> None:
        """Make a flow active. With a lift the time it had nothing waiting gives it no credit."""
        if lift:
            self._lift(flow)
        self._joins += 1
        flow.joined = self._joins
        self._active += 1
        self._enter(flow)

    def leave(self, flow: Flow[T]) -> None:
        """Nothing of the flow may be next any more."""
        self.level()
        self._active -= 1
        flow.entry = None
        self._last = flow

    def visit(self, flow: Flow[T]) -> None:
        """`join` and `leave` in one: something of it goes without having waited."""
        self._lift(flow)
        self._last = flow

    def lowered(self, flow: Flow[T]) -> None:
        """The counter of a flow was lowered."""
        if flow.entry is not None:
            self._enter(flow)

    def _lift(self, flow: Flow[T]) -> None:
        level = self.level()
        if flow.counter < level:
            flow.counter = level
            flow.lifts += 1

    def _enter(self, flow: Flow[T]) -> None:
        flow.entry = _entry(flow)
        if len(self._heap) > 2 * self._active + 64:  # mostly entries that are replaced
            self._heap = [entry for entry in self._heap if entry is entry[3].entry]
            heapify(self._heap)
        heappush(self._heap, flow.entry)

    def _sweep(self) -> None:
        """Forget idle flows that would get no credit or debt out of being remembered. Where too
        many are in debt, it is forgiven to those with the least, and nobody starts below them."""
        level = self.level()
        idle = [flow for flow in self.by_tenant.values() if not flow.waiting and not flow.running]
        indebted = sorted(flow.counter for flow in idle if flow.counter > level)
        if len(indebted) > MAX_INDEBTED:
            level = self._level = indebted[-MAX_INDEBTED // 2]
        for flow in idle:
            if flow.counter <= level:
                del self.by_tenant[flow.tenant]
        self._sweep_at = max(SWEEP_AT, 2 * len(self.by_tenant))


Entry: TypeAlias = tuple[float, float, int, Flow[T]]


def _entry(flow: Flow[T]) -> Entry[T]:
    return flow.counter, flow.running / flow.weight, flow.joined, flow


def _order(ticket: Ticket) -> int:
    return ticket.order
