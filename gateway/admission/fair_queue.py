"""Whose turn it is: a weighted Virtual Token Counter (Sheng et al., "Fairness in Serving Large
Language Models", OSDI 2024, arXiv 2401.00588), one for each priority class.

A tenant's *service* is ``(1 x uncached prompt tokens + 2 x completion tokens) / weight``. Its
counter grows by that: by the prompt when a request is started, by completion tokens as they are
produced. The next request is the oldest of the tenant with the least counter; before it goes, at
most, who has little running and is ahead by little (`overtaking`). A tenant that had
nothing waiting joins with at least the counter of whoever is next (the *lift*): time it didn't use
is nobody's debt. Who comes back because his engine died before his first token has waited all the
time, and isn't lifted.

The bound (the paper's theorem 4.4): of two tenants that both have requests waiting throughout some
time, the services within it differ by at most ``2 U``, ``U = max(1 x the longest prompt, 2 x the
tokens of everything that runs together)``, over the smaller weight. Why: a tenant is only started
when its counter is the least, or next to it, and what it can be charged from then on is what it
has running.

Classes are strict: nothing of a lower one is next while a higher one has something that may be.
A tenant at its cap of running sequences has nothing that may be next; that counts as leaving, so
that newcomers aren't compared with a counter that stands still, and it returns with a lift.

Pure: no clock, no I/O. The caller decides when there is room.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import msgspec

from gateway.admission.demand import Ticket
from gateway.admission.flows import Flow, Flows
from gateway.tenants import Priority

T = TypeVar("T", bound=Ticket)

PROMPT_COST: Final = 1
COMPLETION_COST: Final = 2
LEAD_STEPS: Final = 4
CLASSES: Final[tuple[Priority, ...]] = ("online", "batch")


class Ahead(msgspec.Struct):
    """What is expected to be started before a request: requests, sequences, prompt tokens."""

    requests: float = 0.0
    sequences: float = 0.0
    prompt_tokens: float = 0.0

    def add(self, flow: Flow[T], share: float) -> None:
        self.requests += share * len(flow.waiting)
        self.sequences += share * flow.sequences
        self.prompt_tokens += share * flow.prompt_tokens


class FairQueue(Generic[T]):
    """Tickets wait here, and are charged to their tenants from their start to their end.

    A ticket is pushed, and started or removed; one that is started without having been pushed goes
    without waiting. What was started is finished in the end. `cap` is how many sequences one tenant
    may run; a single request with more runs alone.
    """

    def __init__(self, cap: int | None = None) -> None:
        self._cap = cap
        self._classes: dict[Priority, Flows[T]] = {name: Flows() for name in CLASSES}
        self._running: dict[str, int] = {}
        self._arrivals = 0
        self._waiting = 0
        self.prompt_tokens = 0

    def __len__(self) -> int:
        """Requests that wait."""
        return self._waiting

    def __iter__(self) -> Iterator[T]:
        """Those that wait, flow by flow."""
        for flow in self.flows():
            yield from flow.waiting

    def flows(self, priority: Priority | None = None) -> Iterator[Flow[T]]:
        """The flows that have something waiting, of one class or of all, the highest first."""
        for name in CLASSES if priority is None else (priority,):
            yield from self._classes[name].backlogged.values()

    def flow(self, tenant: str, priority: Priority) -> Flow[T] | None:
        """A tenant's flow, None where nothing is known of it."""
        return self._classes[priority].by_tenant.get(tenant)

    def running(self, tenant: str) -> int:
        """Sequences of a tenant that were started and aren't finished."""
        return self._running.get(tenant, 0)

    def remembered(self) -> int:
        """How many flows are kept in memory."""
        return sum(len(flows.by_tenant) for flows in self._classes.values())

    def push(self, ticket: T) -> None:
        """Wait: behind what its tenant has waiting; where it was before if it comes back."""
        demand = ticket.demand
        returning = ticket.order > 0
        if not returning:
            self._arrivals += 1
            ticket.order = self._arrivals
        ticket.waiting = True
        self._classes[demand.priority].add(ticket)
        self._waiting += 1
        self.prompt_tokens += demand.prompt_tokens
        # While it ran, not only was sent, its tenant had nothing waiting.
        self._follow(demand.tenant, lift=not returning or ticket.was_started)

    def remove(self, ticket: T) -> None:
        """Leave without having been started."""
        self._take(ticket)

    def first(self) -> T | None:
        """Whose turn it is; None where nobody waits who may be next."""
        if not self._waiting:
            return None
        for flows in self._classes.values():
            flow = flows.first()
            if flow is not None:
                return flow.waiting[0]
        return None

    def passes(self, ticket: T) -> bool:
        """Whether it might go without waiting: nobody waits who may be next, nor anything of its
        own tenant."""
        if self._waiting:
            tenant = ticket.demand.tenant
            if any(tenant in flows.backlogged for flows in self._classes.values()):
                return False
        return self.first() is None and not self._capped(ticket)

    def owed(self, tenant: str, priority: Priority, weight: float, seats: int) -> bool:
        """Whether a tenant runs less than half of its share, by weight, of an engine's `seats`:
        then it may start beside those. Only of the highest class, which is the one that hurries."""
        if priority != CLASSES[0]:
            return False
        flows = self._classes[priority]
        weights = flows.weight + (0.0 if tenant in flows.backlogged else weight)
        return 2 * self.running(tenant) * weights < seats * weight

    def overtaking(self, seats: int) -> T | None:
        """Who is `owed` a place and may go before whose turn it is: of the highest class, the least
        served, by no more than what a full engine serves in LEAD_STEPS steps beyond the turn. None
        with more tenants than seats: then nobody's share is a seat."""
        flows = self._classes[CLASSES[0]]
        turn = flows.first()
        if turn is None or not 1 < len(flows.backlogged) <= seats:
            return None
        lead = LEAD_STEPS * COMPLETION_COST * seats
        owed = [
            flow
            for name, flow in flows.backlogged.items()
            if flow.active
            and (flow.counter - turn.counter) * flow.weight <= lead
            and self.owed(name, CLASSES[0], flow.weight, seats)
        ]
        return min(owed, key=_counter).waiting[0] if owed else None

    def start(self, ticket: T) -> None:
        """It runs from here on: charge its tenant for the prompt."""
        demand = ticket.demand
        flows = self._classes[demand.priority]
        flow = flows.of(demand.tenant)
        if ticket.waiting:
            self._take(ticket)
        else:
            if not ticket.order:
                self._arrivals += 1
                ticket.order = self._arrivals
            flows.visit(flow)
        flow.running += 1
        self._run(demand.tenant, demand.sequences)
        if not ticket.charged_prompt:
            ticket.charged_prompt = demand.prompt_tokens
            ticket.lifts = flow.lifts
            flow.counter += PROMPT_COST * demand.prompt_tokens / demand.weight

    def charge(self, ticket: T, completion_tokens: int) -> None:
        """It has produced so many tokens, in all."""
        new = completion_tokens - ticket.charged_completion
        if new > 0:
            ticket.charged_completion = completion_tokens
            demand = ticket.demand
            flow = self._classes[demand.priority].by_tenant[demand.tenant]
            flow.counter += COMPLETION_COST * new / demand.weight

    def refund(self, ticket: T, prompt_tokens: int) -> None:
        """So many tokens of its prompt weren't computed. To be told before it finishes."""
        back = min(prompt_tokens, ticket.charged_prompt)
        if back <= 0:
            return
        ticket.charged_prompt -= back
        demand = ticket.demand
        flows = self._classes[demand.priority]
        flow = flows.by_tenant[demand.tenant]
        # A lift since has made up for all that was charged before it.
        if flow.lifts == ticket.lifts:
            flow.counter -= PROMPT_COST * back / demand.weight
            flows.lowered(flow)

    def finish(self, ticket: T) -> None:
        """It runs no more."""
        demand = ticket.demand
        flow = self._classes[demand.priority].by_tenant[demand.tenant]
        flow.running -= 1
        self._run(demand.tenant, -demand.sequences)

    def ahead(
        self, tenant: str, priority: Priority, weight: float, completion_tokens: float
    ) -> Ahead:
        """What would be started before one more request of `tenant`, taking each waiting sequence
        to produce `completion_tokens`, and nobody else to come."""
        found = Ahead()
        flows = self._classes[priority]
        own = flows.by_tenant.get(tenant)
        reached = flows.level()
        if own is not None:
            reached = max(reached, own.counter)
            if own.waiting:
                reached += _service(own, completion_tokens) / weight
                found.add(own, 1.0)
        for name, others in self._classes.items():
            for flow in others.backlogged.values():
                if flow is own or not flow.active:
                    continue
                share = 1.0
                if name == priority:
                    lag = (reached - flow.counter) * flow.waiting[0].demand.weight
                    share = min(1.0, max(0.0, lag / max(_service(flow, completion_tokens), 1.0)))
                found.add(flow, share)
            if name == priority:
                break
        return found

    def _take(self, ticket: T) -> None:
        ticket.waiting = False
        self._waiting -= 1
        self.prompt_tokens -= ticket.demand.prompt_tokens
        self._classes[ticket.demand.priority].remove(ticket)
        self._follow(ticket.demand.tenant)

    def _capped(self, ticket: T) -> bool:
        """Whether it would take its tenant over the cap."""
        if self._cap is None:
            return False
        running = self._running.get(ticket.demand.tenant, 0)
        return running > 0 and running + ticket.demand.sequences > self._cap

    def _run(self, tenant: str, sequences: int) -> None:
        """So many more of a tenant's sequences run."""
        running = self._running.get(tenant, 0) + sequences
        if running:
            self._running[tenant] = running
        else:
            del self._running[tenant]
        if self._cap is not None:
            self._follow(tenant)

    def _follow(self, tenant: str, *, lift: bool = True) -> None:
        """Have those of a tenant's flows be active whose first request may be next. One that is
        capped also holds what the tenant has in lower classes: it would never fit otherwise."""
        held = False
        for flows in self._classes.values():
            flow = flows.backlogged.get(tenant)
            if flow is None:
                continue
            held = held or self._capped(flow.waiting[0])
            if held and flow.active:
                flows.leave(flow)
            elif not held and not flow.active:
                flows.join(flow, lift=lift)


def _counter(flow: Flow[T]) -> float:
    return flow.counter


def _service(flow: Flow[T], completion_tokens: float) -> float:
    return PROMPT_COST * flow.prompt_tokens + COMPLETION_COST * flow.sequences * completion_tokens
