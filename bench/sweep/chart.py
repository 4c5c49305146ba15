"""The points of a sweep as an SVG picture: throughput, latencies, and one over the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.reports import svg
from bench.reports.comparison import Metric
from bench.sweep.knee import Knee
from bench.sweep.points import (
    E2EL_P50,
    OUTPUT,
    TOTAL,
    TPOT_P50,
    TPOT_P95,
    TTFT_P50,
    TTFT_P95,
    Point,
)
from bench.sweep.ranges import Load

_LEFT, _TOP, _WIDE, _DEEP, _BESIDE, _BELOW = 72, 84, 370, 220, 92, 110
_MOST_MARKS = 10
_ACROSS = {"concurrency": "requests in flight", "rate": "requests that begin a second"}


def to_svg(title: str, points: Sequence[Point], knee: Knee) -> str:
    """Four panels of medians with the range of the rounds. The dashed line is the knee."""
    xs, ys = (_LEFT, _LEFT + _WIDE + _BESIDE), (_TOP, _TOP + _DEEP + _BELOW)
    places = [(x, y) for y in ys for x in xs]
    parts = [svg.text(_LEFT - 40, 28, title, bold=True)]
    if points:
        parts += _over_load("Throughput, tokens/s", (TOTAL, OUTPUT), points, knee, places[0])
        parts += _over_load(
            "Time to first token, ms", (TTFT_P50, TTFT_P95), points, knee, places[1], log=True
        )
        parts += _over_load(
            "Time per output token, ms", (TPOT_P50, TPOT_P95), points, knee, places[2]
        )
        parts += _latency_over_throughput(points, places[3])
    width, height = places[3][0] + _WIDE + 40, places[3][1] + _DEEP + 64
    return svg.picture(title, width, height, parts)


def _over_load(
    title: str,
    metrics: Sequence[Metric],
    points: Sequence[Point],
    knee: Knee,
    corner: tuple[float, float],
    *,
    log: bool = False,
) -> list[str]:
    left, top = corner
    measured = [point.spread(metric) for metric in metrics for point in points]
    values = [value for one in measured if one for value in (one.low, one.high)]
    if not values:
        return [svg.text(left, top - 20, f"{title}: not measured", soft=True)]
    loads = [point.load.value for point in points]
    across = svg.Axis(loads, left, left + _WIDE, log=True)
    up = svg.Axis(values, top + _DEEP, top, log=log and min(values) > 0)
    marks = loads if len(loads) <= _MOST_MARKS else across.ticks
    parts = _frame(title, _ACROSS[points[0].load.kind], (across, marks), up, corner)
    if knee.load is not None:
        parts += _knee(knee.load, across, corner)
    for number, metric in enumerate(metrics):
        parts += _series(number, metric, points, across.place, up.place)
        parts += _legend(number, metric.label.removesuffix(", ms"), left + _WIDE, top)
    return parts


def _series(
    number: int,
    metric: Metric,
    points: Sequence[Point],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> list[str]:
    colour = svg.series(number)
    found = [(x(one.load.value), spread) for one in points if (spread := one.spread(metric))]
    parts = [svg.line([(at, y(spread.median)) for at, spread in found], colour, wide=1.8)]
    for at, spread in found:
        parts.append(svg.line([(at, y(spread.low)), (at, y(spread.high))], colour))
        parts.append(svg.dot(at, y(spread.median), colour))
    return parts


def _latency_over_throughput(points: Sequence[Point], corner: tuple[float, float]) -> list[str]:
    left, top = corner
    found = [
        (point.load, speed.median, latency.median)
        for point in points
        if (speed := point.spread(TOTAL)) and (latency := point.spread(E2EL_P50))
    ]
    title = "E2EL p50, ms, over total tokens/s"
    if not found:
        return [svg.text(left, top - 20, f"{title}: not measured", soft=True)]
    across = svg.Axis([speed for _, speed, _ in found], left, left + _WIDE)
    up = svg.Axis([latency for _, _, latency in found], top + _DEEP, top)
    spots = [(across.place(speed), up.place(latency)) for _, speed, latency in found]
    parts = _frame(
        title,
        f"total tokens/s, each point a {found[0][0].kind}",
        (across, across.ticks),
        up,
        corner,
    )
    parts.append(svg.line(spots, svg.series(0), wide=1.8))
    for (x, y), (load, _, _) in zip(spots, found, strict=True):
        parts.append(svg.dot(x, y, svg.series(0)))
        parts.append(svg.text(x - 6, y - 7, str(load), anchor="end", soft=True))
    return parts


def _frame(
    title: str,
    below: str,
    across: tuple[svg.Axis, Sequence[float]],
    up: svg.Axis,
    corner: tuple[float, float],
) -> list[str]:
    """The axes: the one across with the values to mark."""
    left, top = corner
    bottom = top + _DEEP
    parts = [svg.text(left - 40, top - 20, title)]
    for tick in up.ticks:
        y = up.place(tick)
        parts.append(svg.line([(left, y), (left + _WIDE, y)]))
        parts.append(svg.text(left - 7, y + 4, svg.number(tick), anchor="end", soft=True))
    for mark in across[1]:
        x = across[0].place(mark)
        parts.append(svg.line([(x, bottom), (x, bottom + 4)], "soft"))
        parts.append(svg.text(x, bottom + 18, svg.number(mark), anchor="middle", soft=True))
    parts.append(svg.text(left + _WIDE / 2, bottom + 38, below, anchor="middle", soft=True))
    return parts


def _knee(load: Load, across: svg.Axis, corner: tuple[float, float]) -> list[str]:
    x, top = across.place(load.value), corner[1]
    return [
        svg.line([(x, top), (x, top + _DEEP)], "soft", dashed=True),
        svg.text(x - 5, top + 10, f"knee {load}", anchor="end", soft=True),
    ]


def _legend(number: int, name: str, right: float, top: float) -> list[str]:
    x = right - 95 * (2 - number) - 20
    return [
        svg.line([(x, top - 24), (x + 16, top - 24)], svg.series(number), wide=2.5),
        svg.text(x + 20, top - 20, name.replace("tokens/s", "").strip(), soft=True),
    ]
