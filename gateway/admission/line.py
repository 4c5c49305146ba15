"""One replica's queue, gate and measurements together: every decision of admission, none of its
waiting. The time is passed in."""

from __future__ import annotations

import math
from typing import Final, Generic, TypeVar

from engine.base import LoadedModel
from gateway.admission.bounds import Bounds
from gateway.admission.demand import TOO_LATE, Demand, QueueStats, Ticket
from gateway.admission.fair_queue import Ahead, FairQueue
from gateway.admission.gate import Gate
from gateway.admission.prediction import Prediction
from gateway.config import AdmissionConfig
from gateway.errors import APIError, DeadlineError

T = TypeVar("T", bound=Ticket)

# While somebody waits, tokens are charged to their tenants before a decision, but not more often.
CHARGE_EVERY_S: Final = 0.01


class Line(Generic[T]):
    """Tickets come in by `request`, go by `next` and `start`, and end with `leave`."""

    def __init__(self, config: AdmissionConfig) -> None:
        self.queue: FairQueue[T] = FairQueue(config.max_running_per_tenant)
        self.gate = Gate(config)
        self.prediction = Prediction(self.gate)
        self.bounds: Bounds[T] = Bounds(config, self.queue, self.gate, self.prediction)
        # Why nobody is let in any more, until the next engine.
        self.refused: APIError | None = None
        self._running: dict[T, None] = {}
        self._charged_at = -math.inf

    def serve(self, model: LoadedModel | None, now: float) -> None:
        """The engine is there; None: it is away."""
        if model is None:
            self.gate.close()
            self.prediction.interrupt(now)
            return
        self.refused = None
        self.gate.open(model)
        self.prediction.open()
        self.prediction.follow(len(self.queue), now)

    def request(self, ticket: T, now: float) -> list[T]:
        """Start a ticket, or let it wait where there is no room. Returns who has to leave the queue
        for it, refused. Raises OverloadedError, DeadlineError, or what everyone is refused with.
        """
        if self.refused is not None:
            raise self.refused.again()
        demand, queue = ticket.demand, self.queue
        if queue.passes(ticket) and self._fits(ticket, now):
            if self.late(ticket, now):
                raise DeadlineError(TOO_LATE)
            self.start(ticket, now)
            return []
        self._charge(now)
        leaving: list[T] = []
        returning = ticket.order > 0  # and was let in before
        if demand.deadline is not None:
            expected = 0.0 if returning else self._expected_ttft(demand, now)
            if now + expected >= demand.deadline:
                raise DeadlineError(TOO_LATE)
        if not returning:
            leaving = self.bounds.make_room(demand, now)
            for other in leaving:
                queue.remove(other)
        queue.push(ticket)
        self.prediction.follow(len(queue), now)
        return leaving

    def next(self, now: float) -> T | None:
        """Whose turn it is, if there is room: to be started or removed."""
        self.gate.kv_bound = False
        if not len(self.queue) or self.gate.away:
            return None
        self._charge(now)
        ticket = self.queue.first()
        return ticket if ticket is not None and self._fits(ticket, now) else None

    def late(self, ticket: T, now: float) -> bool:
        """Whether its first token would come after its deadline if it went now."""
        demand = ticket.demand
        if demand.deadline is None:
            return False
        reading = self.prediction.prefill.seconds(demand.prompt_tokens) or 0.0
        return now + reading >= demand.deadline

    def start(self, ticket: T, now: float) -> None:
        """It goes to the engine."""
        demand = ticket.demand
        self.queue.start(ticket)
        self.gate.enter(demand.sequences)
        if not ticket.was_started:
            self.gate.unstarted_tokens += demand.prompt_tokens
            self.prediction.sent(demand)
            ticket.sent_at = now
        self._running[ticket] = None
        self.prediction.follow(len(self.queue), now)

    def started(self, ticket: T, cached_tokens: int, now: float) -> None:
        """Its first token has come, and so many of its prompt's were in the prefix cache."""
        ticket.was_started = True
        self.gate.unstarted_tokens -= ticket.demand.prompt_tokens
        self.prediction.read(ticket, cached_tokens, now)
        self.queue.refund(ticket, cached_tokens)
        self.prediction.follow(len(self.queue), now)

    def leave(self, ticket: T, now: float) -> None:
        """It runs no more: its end, or its engine's."""
        del self._running[ticket]
        if ticket.progress is not None:
            self.queue.charge(ticket, ticket.progress())
        if not ticket.was_started:
            self.gate.unstarted_tokens -= ticket.demand.prompt_tokens
            self.queue.refund(ticket, self._unread(ticket, now))
        self.gate.leave(ticket.demand.sequences)
        self.queue.finish(ticket)
        self.prediction.ended(ticket, ticket.was_started, now)
        self.prediction.follow(len(self.queue), now)

    def _unread(self, ticket: T, now: float) -> int:
        """What the engine can't have read yet of a prompt. Were all of it given back, who hangs up
        before the first token would have the engine for nothing, and be next for ever."""
        rate = self.prediction.prefill.tokens_per_second
        if self.gate.away or rate is None:
            return ticket.demand.prompt_tokens if self.gate.away else 0
        return max(0, ticket.demand.prompt_tokens - int((now - ticket.sent_at) * rate))

    def remove(self, ticket: T, now: float) -> None:
        """It waits no more, and wasn't started."""
        self.queue.remove(ticket)
        self.prediction.follow(len(self.queue), now)

    @property
    def kv_bound(self) -> bool:
        """Whether it is only the KV cache that keeps somebody waiting."""
        return self.gate.kv_bound and len(self.queue) > 0

    def stats(self, now: float) -> QueueStats:
        queue, prediction = self.queue, self.prediction
        everyone = Ahead()
        for flow in queue.flows():
            everyone.add(flow, 1.0)
        return QueueStats(
            queued=len(queue),
            queued_tokens=queue.prompt_tokens,
            running=self.gate.inside,
            predicted_ttft_s=prediction.ttft(everyone, 0, now),
            prefill_tokens_per_s=prediction.prefill.tokens_per_second,
            requests_per_s=prediction.drain.requests_per_second(now),
        )

    def _expected_ttft(self, demand: Demand, now: float) -> float:
        """0 where nothing was measured."""
        prediction = self.prediction
        ahead = self.queue.ahead(
            demand.tenant, demand.priority, demand.weight, prediction.completion_tokens
        )
        owed = self.queue.owed(demand.tenant, demand.priority, demand.weight, self.gate.seats)
        return prediction.ttft(ahead, demand.prompt_tokens, now, owed=owed) or 0.0

    def _fits(self, ticket: T, now: float) -> bool:
        demand, gate = ticket.demand, self.gate
        owed = gate.full(demand.sequences) and self.queue.owed(
            demand.tenant, demand.priority, demand.weight, gate.seats
        )
        return gate.verdict(demand.sequences, demand.prompt_tokens, now, owed=owed) == "open"

    def _charge(self, now: float) -> None:
        """Charge what was produced since the last time."""
        if now - self._charged_at < CHARGE_EVERY_S:
            return
        self._charged_at = now
        for ticket in self._running:
            if ticket.progress is not None:
                self.queue.charge(ticket, ticket.progress())
