"""Memory over the requests served, as an SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_LEFT, _WIDTH, _RIGHT, _TOP, _HEIGHT, _BOTTOM = 70, 620, 190, 48, 300, 48
_COLOURS = ("#1f6fb2", "#b2561f")
_LINES = 5


def to_svg(title: str, requests: Sequence[int], series: Mapping[str, Sequence[float]]) -> str:
    """Each series of MiB above its first value, over the `requests` served before."""
    rises = {name: [value - values[0] for value in values] for name, values in series.items()}
    seen = [rise for values in rises.values() for rise in values]
    low, high = min(seen), max(max(seen), min(seen) + 1.0)
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM

    def x(served: float) -> float:
        return _LEFT + _WIDTH * served / max(requests)

    def y(rise: float) -> float:
        return _TOP + _HEIGHT * (high - rise) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(_LEFT, 24, title),
    ]
    for number in range(_LINES):
        rise = low + (high - low) * number / (_LINES - 1)
        served = max(requests) * number / (_LINES - 1)
        parts += [
            f'<line x1="{_LEFT}" y1="{y(rise):.1f}" x2="{_LEFT + _WIDTH}" y2="{y(rise):.1f}" '
            'stroke="#ddd"/>',
            _text(_LEFT - 8, y(rise) + 4, f"{rise:+.1f}", "end"),
            _text(x(served), _TOP + _HEIGHT + 20, f"{served:,.0f}", "middle"),
        ]
    parts.append(_text(_LEFT + _WIDTH / 2, height - 8, "requests served", "middle"))
    for number, (name, values) in enumerate(rises.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(requests, values, strict=True))
        place = _TOP + 16 + 20 * number
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<rect x="{_LEFT + _WIDTH + 14}" y="{place - 9}" width="10" height="10" '
            f'fill="{colour}"/>',
            _text(_LEFT + _WIDTH + 30, place, name),
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
