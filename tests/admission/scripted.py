"""An engine that batches continuously, step by step, for who was let in."""

from __future__ import annotations

from tests.admission.world import Asked


class Work:
    """One request inside: `completion` tokens for each of its sequences."""

    def __init__(self, asked: Asked, completion: int, cached: int) -> None:
        self.asked = asked
        self.completion = completion
        self.cached = cached


class Engine:
    """First come, first served, `seats` sequences at once; a request whose sequences don't all find
    a seat has them in turn. `service` is what each tenant had, over its weight; `most_tokens` the
    most that were inside at once."""

    def __init__(self, seats: int) -> None:
        self.seats = seats
        self.inside: list[Work] = []
        self.service: dict[str, float] = {}
        self.most_tokens = 0

    def submit(self, asked: Asked, completion: int, cached: int = 0) -> None:
        self.inside.append(Work(asked, completion, cached))
        self._serve(asked, asked.demand.prompt_tokens - cached)

    def step(self) -> list[Work]:
        """One token for each sequence that has a seat. Returns what is finished by it."""
        free, finished = self.seats, []
        self.most_tokens = max(self.most_tokens, self._tokens(self.seats))
        for work in list(self.inside):
            seated = min(free, work.asked.demand.sequences)
            if not seated:
                break
            free -= seated
            if not work.asked.produced:
                work.asked.permit.started(work.cached)
            work.asked.produced += seated
            self._serve(work.asked, 2 * seated)
            if work.asked.produced >= work.completion * work.asked.demand.sequences:
                self.inside.remove(work)
                finished.append(work)
        return finished

    def _tokens(self, new: int) -> int:
        """Of everything inside, with so many more."""
        return new + sum(w.asked.demand.prompt_tokens + w.asked.produced for w in self.inside)

    def _serve(self, asked: Asked, cost: int) -> None:
        tenant, weight = asked.demand.tenant, asked.demand.weight
        self.service[tenant] = self.service.get(tenant, 0.0) + cost / weight
