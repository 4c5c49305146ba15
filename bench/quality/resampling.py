"""Means with bootstrap intervals, and what a difference of two means allows to conclude."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.stats import percentile

# A bootstrap of fewer values gives intervals that are too short.
FEWEST_PAIRS = 10
_RESAMPLES = 2000

Verdict = Literal["better", "worse", "no conclusion"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(
    totals: Sequence[float], weights: Sequence[float] | None = None, *, seed: int = 0
) -> Estimate:
    """`sum(totals) / sum(weights)` and its percentile-bootstrap interval over the pairs.

    Without weights the mean of `totals`. The same for the same seed. Raises ValueError: fewer than
    two values, which tell nothing of how they vary.
    """
    if len(totals) < 2:
        raise ValueError("an interval needs two values at least")
    pairs = list(zip(totals, weights or [1.0] * len(totals), strict=True))
    rng = random.Random(seed)
    means = sorted(_mean(rng.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES))
    return Estimate(_mean(pairs), percentile(means, 2.5), percentile(means, 97.5))


def verdict(change: Estimate, *, pairs: int, equal: float, higher_is_better: bool) -> Verdict:
    """What a change allows to conclude; `equal` is the change of things that are the same."""
    if pairs < FEWEST_PAIRS or change.low <= equal <= change.high:
        return "no conclusion"
    return "better" if (change.low > equal) == higher_is_better else "worse"


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(total for total, _ in pairs) / sum(weight for _, weight in pairs)
