"""Percentiles, summaries and bootstrap intervals."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample described; in the unit of its values."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with the bounds of its bootstrap interval."""

    median: float
    low: float
    high: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Interpolate linearly between the closest ranks of an ascending sequence.

    This is numpy's default method. Raises ValueError: empty, or percent outside 0..100.
    """
    if not ordered:
        raise ValueError("no percentile of nothing")
    if not 0 <= percent <= 100:
        raise ValueError(f"percent must be in 0..100, not {percent}")
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def summarize(values: Iterable[float]) -> Summary | None:
    """None where there are no values: an unmeasured latency is not zero."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Summary(
        count=len(ordered),
        mean=fmean(ordered),
        min=ordered[0],
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        max=ordered[-1],
    )


def bootstrap_median(
    values: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The median and its percentile-bootstrap interval, the same for the same seed.

    With five values or fewer the 95% interval is the whole range, so a conclusion then needs
    every value on one side. Raises ValueError: no values.
    """
    if not values:
        raise ValueError("no median of nothing")
    rng = random.Random(seed)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(resamples))
    tail = (1 - confidence) / 2 * 100
    return Interval(median(values), percentile(medians, tail), percentile(medians, 100 - tail))
