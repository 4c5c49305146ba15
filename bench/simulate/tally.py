"""What many seeds come to. Not in `__main__`: processes can't find there what they are to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import process_time

from bench.simulate.scenario import random_scenario
from bench.simulate.world import World


@dataclass(slots=True)
class Tally:
    """What some seeds came to. `broken` holds the first violation of each seed that has one."""

    seeds: int = 0
    requests: int = 0
    tokens: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    largest_gap: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.requests += other.requests
        self.tokens += other.tokens
        self.virtual_s += other.virtual_s
        self.cpu_s += other.cpu_s
        self.largest_gap = max(self.largest_gap, other.largest_gap)
        self.outcomes += other.outcomes
        self.broken |= other.broken


def simulate(seeds: Sequence[int]) -> Tally:
    """Play these seeds, in this process."""
    found, start = Tally(), process_time()
    for seed in seeds:
        run = World(random_scenario(seed)).play()
        found.seeds += 1
        found.requests += len(run.rows)
        found.tokens += run.prompt_tokens + run.generation_tokens
        found.virtual_s += run.seconds
        found.largest_gap = max(found.largest_gap, run.largest_gap)
        found.outcomes += run.outcomes
        if run.violations:
            found.broken[seed] = run.violations[0]
    found.cpu_s = process_time() - start
    return found
