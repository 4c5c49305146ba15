"""When a request's first token will come, and how long the refused should stay away."""

from __future__ import annotations

from gateway.admission.demand import Demand, Ticket
from gateway.admission.fair_queue import Ahead
from gateway.admission.gate import Gate
from gateway.admission.rates import Drain, Mean, Prefill


class Prediction:
    """Follows one engine through its gate; pure, with the time passed in.

    The first token comes once the sequences before it have made room, in the order in which the
    queue is fair and at the rate at which they end, and the prompts before it are read.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._unstarted = 0
        self.prefill = Prefill()
        self.drain = Drain()
        self._completion = Mean()
        self._uncached = Mean()

    @property
    def completion_tokens(self) -> float:
        """Of a sequence, on average; 0 before one has ended."""
        return self._completion.value

    def sent(self, demand: Demand) -> None:
        """The engine is given a request."""
        self._unstarted += demand.sequences

    def read(self, ticket: Ticket, cached_tokens: int, now: float) -> None:
        """The first token of a request that was sent has come."""
        demand = ticket.demand
        uncached = max(0, demand.prompt_tokens - cached_tokens)
        self.prefill.read(uncached, now)
        self._uncached.add(uncached, demand.prompt_tokens)
        self._unstarted -= demand.sequences

    def ended(self, ticket: Ticket, started: bool, now: float) -> None:
        """A request that was sent is over, or comes back."""
        demand = ticket.demand
        self.drain.ended(demand.sequences, now)
        if started:
            self._completion.add(ticket.charged_completion, demand.sequences)
        else:
            self._unstarted -= demand.sequences

    def follow(self, waiting: int, now: float) -> None:
        """The counts are as they are from now on, and so many requests wait."""
        gate = self._gate
        if gate.away:
            return
        self.drain.busy(waiting > 0 or gate.inside >= gate.seats, now)
        # Those without a seat aren't being read.
        self.prefill.busy(self._unstarted > max(0, gate.inside - gate.all_seats), now)

    def open(self) -> None:
        """The engine is there."""
        self.drain.seats(self._gate.seats)

    def interrupt(self, now: float) -> None:
        """The engine is away."""
        self.drain.busy(False, now)
        self.prefill.interrupt()

    def reading_s(self, prompt_tokens: int) -> float:
        """Seconds by which a prompt of which as much is cached as of others makes a step longer; 0
        where that wasn't measured."""
        rate = self.prefill.tokens_per_second
        return prompt_tokens * self._uncached.value / rate if rate is not None else 0.0

    def ttft(
        self, ahead: Ahead, prompt_tokens: int, now: float, *, owed: bool = False
    ) -> float | None:
        """Seconds until the first token of a request with `ahead` before it, which may take a spare
        seat where it is `owed` one. None where nothing was measured that could tell; then nobody
        may be refused for it."""
        gate = self._gate
        if gate.away:
            return None
        seats = gate.all_seats if owed else gate.seats
        seats = min(seats, gate.inside) if gate.kv_bound else seats
        wait, short = 0.0, gate.inside + ahead.sequences + 1 - seats
        if short > 0:
            rate = self.drain.sequences_per_second(now)
            if rate is None:
                return None
            wait = short / rate
        before = gate.unstarted_tokens + ahead.prompt_tokens
        own = self.prefill.seconds(prompt_tokens) or 0.0
        backlog = self.prefill.seconds(before + prompt_tokens) or 0.0
        return max(wait + own, backlog)
