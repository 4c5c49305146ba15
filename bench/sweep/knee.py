"""The knee of a throughput curve: the load beyond which more load stops paying.

Kneedle (Satopää, Albrecht, Irwin, Raghavan: Finding a "Kneedle" in a Haystack, ICDCS workshops
2011) on the throughput in total tokens a second over the load. Both axes are scaled to 0..1; the
height of the curve above the diagonal is what a load gives beyond its share of the range. A peak
of that height is a knee once the height has fallen, before it rises again, by a mean step of the
load (the paper's sensitivity 1). Its smoothing spline is left out: a sweep has few points, and
each is already the median of its rounds. Instead a knee has to stand out from the rounds' spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.sweep.points import TOTAL, Point, Spread
from bench.sweep.ranges import Load

FEWEST_POINTS = 4
# Of the highest throughput, where there is one round.
_UNKNOWN_NOISE = 0.1


@dataclass(frozen=True, slots=True)
class Knee:
    """The load of the knee, or None; `reason` is a sentence that says why."""

    load: Load | None
    reason: str


def find_knee(points: Sequence[Point]) -> Knee:
    """The knee of the points, which go from the lowest load to the highest."""
    curve = [(point.load, spread) for point in points if (spread := point.spread(TOTAL))]
    if len(curve) < FEWEST_POINTS:
        return Knee(None, f"No knee: {len(curve)} points are too few, {FEWEST_POINTS} are needed.")
    lowest, highest = (pick(spread.median for _, spread in curve) for pick in (min, max))
    noise = max(spread.high - spread.low for _, spread in curve)
    if min(len(point.records) for point in points) < 2:
        # One round tells nothing of its noise.
        noise = max(noise, _UNKNOWN_NOISE * highest)
    if highest - lowest <= 2 * noise:
        return Knee(
            None,
            "No knee in this range: throughput changes no more over the loads than between rounds.",
        )
    xs, ys = [load.value for load, _ in curve], [spread.median for _, spread in curve]
    at = kneedle(xs, ys, least=noise / (highest - lowest))
    if at is None:
        return Knee(None, f"No knee in this range: {_no_knee(curve)}.")
    return Knee(curve[at][0], _sentence(curve, at))


def kneedle(xs: Sequence[float], ys: Sequence[float], *, least: float = 0.0) -> int | None:
    """The place of the highest knee of an increasing, concave curve; None where there is none.

    `xs` ascend. `least` is the height above the diagonal, in 0..1, that a knee exceeds.
    """
    height = [y - x for x, y in zip(_unit(xs), _unit(ys), strict=True)]
    fall = 1 / (len(xs) - 1)  # the mean step of the load, scaled
    found = [
        at
        for at in range(1, len(height) - 1)
        if height[at - 1] <= height[at] > height[at + 1]
        and height[at] > least
        and _falls_by(height[at:], fall)
    ]
    return max(found, key=lambda at: height[at], default=None)


def _falls_by(height: Sequence[float], fall: float) -> bool:
    """Whether the heights go down by `fall` from the first before they rise."""
    for before, now in pairwise(height):
        if now > before:
            return False
        if now < height[0] - fall:
            return True
    return False


def _unit(values: Sequence[float]) -> list[float]:
    low, reach = min(values), max(values) - min(values)
    return [(value - low) / reach if reach else 0.0 for value in values]


def _no_knee(curve: Sequence[tuple[Load, Spread]]) -> str:
    (before, low), (last, high) = curve[-2], curve[-1]
    grown = high.median / low.median - 1 if low.median else 0.0
    more = last.value / before.value - 1
    if grown > 0.1 * more:
        return (
            f"throughput still grows at its end, by {grown:.0%} for {more:.0%} more load "
            f"from {before} to {last}"
        )
    return "the bend of the throughput doesn't stand out"


def _sentence(curve: Sequence[tuple[Load, Spread]], at: int) -> str:
    (load, knee), (last, end) = curve[at], curve[-1]
    change = end.median / knee.median - 1
    return (
        f"The knee is at {load.kind} {load}: {knee.median:,.1f} total tokens/s; "
        f"{last.value / load.value:.3g} times the load ({load.kind} {last}) changes that by "
        f"{change:+.0%}."
    )
