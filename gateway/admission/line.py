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
from gateway.admission.pace import Pace
from gateway.admission.prediction import Prediction
from gateway.config import AdmissionConfig
from gateway.errors import APIError, DeadlineError

T = TypeVar("T", bound=Ticket)

# While somebody waits, tokens are charged to their tenants before a decision, but not more often.
CHARGE_EVERY_S: Final = 0.01
# How often the engine is looked at while its KV cache alone keeps somebody waiting: it frees what
# a request had only a step after that has ended.
KV_POLL_S: Final = 0.02
# A timer for less would be called at once.
SOONEST_S: Final = 0.001


class Line(Generic[T]):
    """Tickets come in by `request`, go by `next` and `start`, and end with `leave`."""

    def __init__(self, config: AdmissionConfig) -> None:
        self.queue: FairQueue[T] = FairQueue(config.max_running_per_tenant)
        self.gate = Gate(config)
        self.pace = Pace()
        self.prediction = Prediction(self.gate)
        self.bounds: Bounds[T] = Bounds(config, self.queue, self.gate, self.prediction)
        # Why nobody is let in any more, until the next engine.
        self.refused: APIError | None = None
        # In how many seconds who waits may go though nothing ends; None: it takes an end.
        self.again_s: float | None = None
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
        self._follow(now)

    def request(self, ticket: T, now: float) -> list[T]:
        """Start a ticket, or let it wait where there is no room. Returns who has to leave the queue
        for it, refused. Raises OverloadedError, DeadlineError, or what everyone is refused with.
        """
        if self.refused is not None:
            raise self.refused.again()
        demand, queue = ticket.demand, self.queue
        self.pace.seen(demand.tenant, now)
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
        # Who only waits for the prompts before it to be read has a place, and takes nobody's.
        has_place = self._held_s(now) > 0 and len(queue) < self.gate.free()
        if not returning and not has_place:
            leaving = self.bounds.make_room(demand, now)
            for other in leaving:
                queue.remove(other)
        queue.push(ticket)
        self._follow(now)
        return leaving

    def next(self, now: float) -> T | None:
        """Whose turn it is, if there is room: to be started or removed."""
        self.gate.kv_bound, self.again_s = False, None
        if not len(self.queue) or self.gate.away:
            return None
        self._charge(now)
        ticket = self.queue.first()
        if ticket is None or self._fits(ticket, now):
            return ticket
        if self.gate.free(owed=True) and not self.gate.kv_bound:
            other = self.queue.overtaking(self.gate.seats)
            if other is not None and self._fits(other, now):
                return other
        held = 0.0 if self.gate.full(ticket.demand.sequences) else self._held_s(now)
        if self.gate.kv_bound:
            self.again_s = KV_POLL_S
        elif held:
            self.again_s = max(held, SOONEST_S)
        return None

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
            self.pace.sent(self.prediction.reading_s(demand.prompt_tokens), now)
            ticket.sent_at = now
        self._running[ticket] = None
        self._follow(now)

    def started(self, ticket: T, cached_tokens: int, now: float) -> None:
        """Its first token has come, and so many of its prompt's were in the prefix cache."""
        ticket.was_started = True
        self.gate.unstarted_tokens -= ticket.demand.prompt_tokens
        self.prediction.read(ticket, cached_tokens, now)
        self._unread(now)
        self.queue.refund(ticket, cached_tokens)
        self._follow(now)

    def leave(self, ticket: T, now: float) -> None:
        """It runs no more: its end, or its engine's."""
        del self._running[ticket]
        if ticket.progress is not None:
            self.queue.charge(ticket, ticket.progress())
        if not ticket.was_started:
            self.gate.unstarted_tokens -= ticket.demand.prompt_tokens
            self.queue.refund(ticket, self._not_read(ticket, now))
            self._unread(now)
        self.gate.leave(ticket.demand.sequences)
        self.queue.finish(ticket)
        self.prediction.ended(ticket, ticket.was_started, now)
        self._follow(now)

    def _not_read(self, ticket: T, now: float) -> int:
        """What the engine can't have read yet of a prompt. Were all of it given back, who hangs up
        before the first token would have the engine for nothing, and be next for ever."""
        rate = self.prediction.prefill.tokens_per_second
        if self.gate.away or rate is None:
            return ticket.demand.prompt_tokens if self.gate.away else 0
        return max(0, ticket.demand.prompt_tokens - int((now - ticket.sent_at) * rate))

    def remove(self, ticket: T, now: float) -> None:
        """It waits no more, and wasn't started."""
        self.queue.remove(ticket)
        self._follow(now)

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
        held = self._held_s(now) > 0
        owed = (held or gate.full(demand.sequences)) and self.queue.owed(
            demand.tenant, demand.priority, demand.weight, gate.seats
        )
        if held and not owed:
            return False
        return gate.verdict(demand.sequences, demand.prompt_tokens, now, owed=owed) == "open"

    def _held_s(self, now: float) -> float:
        """For how long the prompts before it keep one from going."""
        return self.pace.wait(now) if self.gate.inside and not self.gate.kv_bound else 0.0

    def _unread(self, now: float) -> None:
        """Fewer prompts are to be read than before."""
        self.pace.unread(self.prediction.reading_s(self.gate.unstarted_tokens), now)

    def _follow(self, now: float) -> None:
        """The counts are as they are from now on. Who is only held back doesn't show that the
        engine is full."""
        held = self.again_s is not None and not self.gate.kv_bound
        self.prediction.follow(0 if held else len(self.queue), now)

    def _charge(self, now: float) -> None:
        """Charge what was produced since the last time."""
        if now - self._charged_at < CHARGE_EVERY_S:
            return
        self._charged_at = now
        for ticket in self._running:
            if ticket.progress is not None:
                self.queue.charge(ticket, ticket.progress())
