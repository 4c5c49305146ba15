"""The pieces of a picture: its frame, text, lines, axes.

Colours go by name and follow the reader's light or dark setting, in a file of its own and inside a
page alike: `ground`, `ink`, `soft`, `rule`, and those of `series`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_LIGHT = {
    "ground": "#fff", "ink": "#1b1f24", "soft": "#5b6470", "rule": "#e1e4e8",
    "s0": "#1f6fb2", "s1": "#c96f12", "s2": "#3a8a4d", "s3": "#8350a0", "s4": "#6b7280",
}  # fmt: skip
_DARK = {
    "ground": "#14171b", "ink": "#e6e8eb", "soft": "#9aa4b0", "rule": "#2c333b",
    "s0": "#62a8e5", "s1": "#eb9d4c", "s2": "#6cbf7f", "s3": "#b98bd3", "s4": "#9aa4b0",
}  # fmt: skip
SERIES = 5


def picture(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A complete SVG document of these parts."""
    dark = "".join(
        f".chart .f-{name}{{fill:{hue}}}.chart .l-{name}{{stroke:{hue}}}"
        for name, hue in _DARK.items()
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" width="{width:g}" '
            f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" '
            'font-size="12" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>@media (prefers-color-scheme:dark){{{dark}}}</style>",
            f'<rect width="{width:g}" height="{height:g}" {_fill("ground")}/>',
            *parts,
            "</svg>\n",
        ]
    )


def series(number: int) -> str:
    """The name of the colour of a series, by its number from 0."""
    return f"s{number % SERIES}"


def text(
    x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False, soft: bool = False
) -> str:
    more = ' font-weight="bold"' if bold else ""
    ink = _fill("soft" if soft else "ink")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {ink}{more}>{escape(words)}</text>'
    )


def line(
    spots: Sequence[tuple[float, float]],
    colour: str = "rule",
    *,
    dashed: bool = False,
    wide: float = 1.0,
) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    stroke = f'stroke="{_LIGHT[colour]}" class="l-{colour}" stroke-width="{wide:g}"'
    more = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" {stroke}{more}/>'


def dot(x: float, y: float, colour: str, *, faint: bool = False) -> str:
    """`faint` ones show where several lie over each other."""
    more = ' fill-opacity="0.45"' if faint else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" {_fill(colour)}{more}/>'


def _fill(colour: str) -> str:
    # The light colour is in the element itself, for viewers that read no style sheets.
    return f'fill="{_LIGHT[colour]}" class="f-{colour}"'


def number(value: float) -> str:
    """A figure as short as it is honest beside an axis."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Axis:
    """Values to places on a picture, `start` and `end` being the places of the first and last tick.

    A linear axis begins at zero; on a logarithmic one twice as much is the same distance
    everywhere, and values are above zero. Ticks are 1, 2, 5, 10, 20, … on it, and round numbers on
    the other.
    """

    def __init__(
        self, values: Sequence[float], start: float, end: float, *, log: bool = False
    ) -> None:
        self._log = log
        self._start, self._end = start, end
        self.ticks = _decades(values) if log else _round_numbers(max(values, default=1.0))
        self._low, self._high = self._scale(self.ticks[0]), self._scale(self.ticks[-1])

    def place(self, value: float) -> float:
        share = (self._scale(value) - self._low) / (self._high - self._low)
        return self._start + (self._end - self._start) * share

    def _scale(self, value: float) -> float:
        return math.log(value) if self._log else value


def _decades(values: Sequence[float]) -> list[float]:
    steps = [step * 10.0**power for power in range(-6, 10) for step in (1, 2, 5)]
    low = max((step for step in steps if step <= min(values, default=1)), default=steps[0])
    high = min((step for step in steps if step >= max(values, default=2)), default=steps[-1])
    # Two ticks at least: the one after 2 is 5.
    return [step for step in steps if low <= step <= max(high, 2.6 * low)]


def _round_numbers(highest: float) -> list[float]:
    highest = highest if highest > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(highest / 4))
    step = next(step * power for step in (1, 2, 2.5, 5, 10, 20) if step * power * 5 >= highest)
    return [step * count for count in range(math.ceil(highest / step - 1e-9) + 1)]
