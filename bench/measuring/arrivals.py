"""When requests are due in an open loop."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Literal

ArrivalKind = Literal["poisson", "constant", "burst", "ramp"]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A rate in requests a second, and how it is kept.

    `poisson`: independent of one another. `constant`: evenly spaced. `burst`: gaps from a gamma
    distribution of shape `burstiness`: 1 is Poisson, below it requests come in bursts, above it
    more evenly. `ramp`: Poisson at a rate that goes from `rate` to `rate_end` within `ramp_s`
    seconds, in a straight line, and stays there.
    """

    kind: ArrivalKind
    rate: float
    burstiness: float = 1.0
    rate_end: float | None = None
    ramp_s: float = 0.0

    def times(self, seed: int) -> Iterator[float]:
        """Seconds from the start, ascending without end, the same for the same seed."""
        # An arrival process of rate 1, its clock then bent to the rate that is wanted.
        return map(self._at, self._units(random.Random(f"arrivals {seed}")))

    def _units(self, rng: random.Random) -> Iterator[float]:
        if self.kind == "constant":
            return (float(number) for number in count())
        if self.kind == "burst":
            shape = self.burstiness
            return accumulate(rng.gammavariate(shape, 1 / shape) for _ in count())
        return accumulate(rng.expovariate(1.0) for _ in count())

    def _at(self, units: float) -> float:
        if self.kind != "ramp" or self.rate_end is None or self.ramp_s <= 0:
            return units / self.rate
        start, end, ramp_s = self.rate, self.rate_end, self.ramp_s
        beyond = units - (start + end) / 2 * ramp_s
        if beyond >= 0:
            return ramp_s + beyond / end
        # The positive root of start t + (end - start) t² / (2 ramp_s) = units, in the form that
        # also holds where both rates are the same.
        growth = (end - start) / ramp_s
        return 2 * units / (start + math.sqrt(max(0.0, start * start + 2 * growth * units)))
