"""Whether a series of measurements grows: a least-squares line with its standard error.

The error is that of independent measurements. Those of a process's memory are not, as it grows in
steps, so the error is too small rather than too large: a leak is claimed too soon, not too late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

TOLERATED_GROWTH = 0.01
_STANDARD_ERRORS = 2.0
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Trend:
    """The line through a series.

    `slope` and `standard_error` are in units of y per unit of x; `growth` is how much the line
    rises over the whole series, as a share of where it begins.
    """

    slope: float
    standard_error: float
    growth: float

    @property
    def flat(self) -> bool:
        """Not rising beyond what noise explains, or by less than anybody would notice."""
        return (
            self.slope <= _STANDARD_ERRORS * self.standard_error or self.growth < TOLERATED_GROWTH
        )


def trend(xs: Sequence[float], ys: Sequence[float]) -> Trend:
    """Fit `ys` over `xs`. Raises ValueError: fewer than three points, or all at one x."""
    if len(xs) < _FEWEST or min(xs) == max(xs):
        raise ValueError(f"no trend in {len(xs)} points")
    x_mean, y_mean = fmean(xs), fmean(ys)
    spread = math.fsum((x - x_mean) ** 2 for x in xs)
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    residuals = [y - y_mean - slope * (x - x_mean) for x, y in zip(xs, ys, strict=True)]
    variance = math.fsum(r * r for r in residuals) / (len(xs) - 2)
    begin = y_mean + slope * (min(xs) - x_mean)
    return Trend(
        slope=slope,
        standard_error=math.sqrt(variance / spread),
        growth=slope * (max(xs) - min(xs)) / begin if begin else math.inf,
    )
