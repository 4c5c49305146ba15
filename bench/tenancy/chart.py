"""Line charts side by side, as an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_COLOURS = ("#1f6fb2", "#d9822b", "#4a9c5d", "#8e5ea2", "#7a7a7a", "#b03a5b", "#3aa6a6")
_LEFT, _TOP, _PANEL, _GAP, _DEEP, _LEGEND = 64, 44, 360, 76, 240, 18
_MOST_POINTS = 400
_LINES = 5


@dataclass(frozen=True, slots=True)
class Line:
    """Named points from left to right. Lines of one `colour` belong together."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over one pair of axes; with `log` the horizontal one is logarithmic."""

    title: str
    across: str
    lines: Sequence[Line]
    log: bool = False


def distribution(values: Sequence[float]) -> list[tuple[float, float]]:
    """The share of values that are at most so large, in percent."""
    ordered = sorted(values)
    return [(value, 100 * (n + 1) / len(ordered)) for n, value in enumerate(ordered)]


def to_svg(title: str, panels: Sequence[Panel]) -> str:
    """The panels in a row, each with its legend below it."""
    legend = max((len(panel.lines) for panel in panels), default=0) * _LEGEND
    width = _LEFT + len(panels) * (_PANEL + _GAP)
    height = _TOP + _DEEP + 56 + legend
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, _LEFT + number * (_PANEL + _GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float) -> list[str]:
    xs = [x for line in panel.lines for x, _ in line.points if x > 0 or not panel.log] or [0.0, 1.0]
    ys = [y for line in panel.lines for _, y in line.points] or [0.0, 1.0]
    across = _Axis(min(xs), max(xs), left, left + _PANEL, log=panel.log)
    up = _Axis(min(0.0, *ys), max(ys), _TOP + _DEEP, _TOP, log=False)
    parts = [_text(left, _TOP - 16, panel.title, bold=True)]
    for tick in up.ticks():
        y = up.place(tick)
        parts.append(_rule(left, y, left + _PANEL, y))
        parts.append(_text(left - 6, y + 4, _short(tick), anchor="end"))
    for tick in across.ticks():
        x = across.place(tick)
        parts.append(_rule(x, _TOP, x, _TOP + _DEEP))
        parts.append(_text(x, _TOP + _DEEP + 16, _short(tick), anchor="middle"))
    middle = left + _PANEL / 2
    parts.append(_text(middle, _TOP + _DEEP + 34, panel.across, anchor="middle"))
    for number, line in enumerate(panel.lines):
        spots = [(across.place(x), up.place(y)) for x, y in _thinned(line.points)]
        parts.append(_polyline(spots, line))
        y = _TOP + _DEEP + 52 + number * _LEGEND
        parts.append(_polyline([(left, y - 4), (left + 22, y - 4)], line))
        parts.append(_text(left + 28, y, line.name))
    return parts


class _Axis:
    """Values to places on the picture."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        self._log = log
        self._low, self._high = low, high if high > low else low + 1.0
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        low, high = self._scale(self._low), self._scale(self._high)
        share = (self._scale(max(value, self._low)) - low) / (high - low)
        return self._start + (self._end - self._start) * share

    def ticks(self) -> list[float]:
        if self._log:
            steps = [step * 10.0**power for power in range(-6, 9) for step in (1, 2, 5)]
            return [step for step in steps if self._low <= step <= self._high]
        reach = self._high - self._low
        return [self._low + reach * number / (_LINES - 1) for number in range(_LINES)]

    def _scale(self, value: float) -> float:
        return math.log(value) if self._log else value


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= _MOST_POINTS:
        return points
    step = (len(points) - 1) / (_MOST_POINTS - 1)
    return [points[round(number * step)] for number in range(_MOST_POINTS)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _polyline(spots: Sequence[tuple[float, float]], line: Line) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
    colour = _COLOURS[line.colour % len(_COLOURS)]
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
