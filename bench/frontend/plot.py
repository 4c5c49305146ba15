"""Cost per token and time to first token by concurrency, as an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median

from bench.frontend.report import TOKEN_COST, TTFT_P50, TTFT_P99, Column, Findings

_COLOURS = ("#1f6fb2", "#d9822b", "#4a9c5d", "#8e5ea2", "#7a7a7a")
_WIDTH, _HEIGHT, _LEFT, _TOP, _PANEL, _GAP, _DEEP = 960, 400, 70, 92, 380, 80, 240
_BOTTOM = _TOP + _DEEP


def to_svg(findings: Findings) -> str:
    """One panel each, medians over concurrency with the range of the rounds; on logarithmic axes,
    so that twice as much is the same distance everywhere."""
    title = f"Front-end cost: {', '.join(findings.names)}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            *_legend(findings.names),
            *_panel(findings, (TOKEN_COST,), f"{TOKEN_COST.label}, serving process", _LEFT),
            *_panel(
                findings,
                (TTFT_P50, TTFT_P99),
                "Time to first token, ms: p50 solid, p99 dashed",
                _LEFT + _PANEL + _GAP,
            ),
            "</svg>\n",
        ]
    )


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        x = _LEFT + 130 * number
        parts.append(f'<rect x="{x}" y="16" width="14" height="14" fill="{_colour(number)}"/>')
        parts.append(_text(x + 20, 28, name))
    return parts


def _panel(findings: Findings, columns: Sequence[Column], title: str, left: float) -> list[str]:
    """A line for each server and column. Those after the first column are dashed, and have neither
    range nor figures, for there is no room."""
    lines = [
        (number, column, points)
        for number, name in enumerate(findings.names)
        for column in columns
        if (points := _points(findings, name, column))
    ]
    axis = _Axis([value for _, _, points in lines for _, values in points for value in values])
    parts = _frame(findings, axis, title, left)
    for number, column, points in lines:
        colour, first = _colour(number), column is columns[0]
        spots = [
            (_across(findings, place, left), axis.y(median(values))) for place, values in points
        ]
        parts.append(_line(spots, colour, dashed=not first))
        for (x, y), (_, values) in zip(spots, points, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
            if first:
                parts.append(_line([(x, axis.y(min(values))), (x, axis.y(max(values)))], colour))
                parts.append(_text(x + 7, y - 6, _short(median(values))))
    return parts


class _Axis:
    """A logarithmic axis from one to another of 1, 2, 5, 10, 20, … around the values."""

    def __init__(self, values: Sequence[float]) -> None:
        steps = [step * 10.0**power for power in range(-3, 9) for step in (1, 2, 5)]
        low = max((step for step in steps if step <= min(values, default=1)), default=steps[0])
        high = min((step for step in steps if step >= max(values, default=2)), default=steps[-1])
        self.ticks = [step for step in steps if low <= step <= high] or [low, high]
        self._low, self._reach = math.log(low), math.log(max(high / low, 2.0))

    def y(self, value: float) -> float:
        return _BOTTOM - _DEEP * (math.log(value) - self._low) / self._reach


def _points(findings: Findings, name: str, column: Column) -> list[tuple[int, list[float]]]:
    """The place of each concurrency and its values; noise around nothing can't be drawn."""
    found = (
        (place, [value for value in findings.values(name, concurrency, column) if value > 0])
        for place, concurrency in enumerate(findings.concurrencies)
    )
    return [(place, values) for place, values in found if values]


def _frame(findings: Findings, axis: _Axis, title: str, left: float) -> list[str]:
    parts = [_text(left, _TOP - 24, title, bold=True)]
    for tick in axis.ticks:
        parts.append(_line([(left, axis.y(tick)), (left + _PANEL, axis.y(tick))], "#ddd"))
        parts.append(_text(left - 8, axis.y(tick) + 4, f"{tick:,g}", anchor="end"))
    for place, concurrency in enumerate(findings.concurrencies):
        x = _across(findings, place, left)
        parts.append(_text(x, _BOTTOM + 20, f"{concurrency:,}", anchor="middle"))
    parts.append(_text(left + _PANEL / 2, _BOTTOM + 42, "concurrent streams", anchor="middle"))
    return parts


def _across(findings: Findings, place: int, left: float) -> float:
    return left + _PANEL * (place + 0.5) / len(findings.concurrencies)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _line(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
