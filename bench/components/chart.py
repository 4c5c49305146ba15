"""Waterfalls of median requests, as an SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bench.components.findings import CONNECT, NETWORK, UNEXPLAINED, Cell, parts_ms
from bench.components.report import milliseconds
from bench.reports import svg

# Whose the time of a part is; what is named nowhere is the gateway's.
_GATEWAY: Final = "gateway"
_ENGINE: Final = ("prefill", "decode")
_OWNERS: Final = {
    _GATEWAY: (),
    "engine": _ENGINE,
    "waiting for a turn": ("queue",),
    "unexplained": (UNEXPLAINED,),
    "network and client": (CONNECT, NETWORK, "send"),
}
_LEFT, _NAMES, _BARS, _FIGURES = 20, 84, 300, 140
_TOP, _HEAD, _ROW, _GAP, _THICK, _THINNEST = 56, 34, 17, 24, 12.0, 1.0
_WHOLE: Final = _LEFT + _NAMES
_CLOSER: Final = _WHOLE + _BARS + _FIGURES


def to_svg(title: str, cells: Sequence[Cell], shown: Sequence[str]) -> str:
    """For each cell a request on the left, and closer, without its time in the engine, on the
    right. Each of the parts `shown` begins where the one before it ends.

    Those that come in turns, as decode and frame do, and both ways of the network, are drawn as
    one.
    """
    deep = _HEAD + _ROW * len(shown) + _GAP
    parts = [svg.text(_LEFT, 22, title, bold=True), *_legend()]
    for number, cell in enumerate(cells):
        parts += _case(cell, shown, _TOP + number * deep)
    return svg.picture(title, _CLOSER + _BARS + _LEFT, _TOP + deep * len(cells), parts)


def _legend() -> list[str]:
    parts: list[str] = []
    for number, owner in enumerate(_OWNERS):
        x = _LEFT + 150 * number
        parts += [_bar(x, 34, _THICK, svg.series(number)), svg.text(x + 18, 45, owner, soft=True)]
    return parts


def _case(cell: Cell, shown: Sequence[str], top: float) -> list[str]:
    request = cell.typical
    head = f"{cell.case.answers}, {cell.case.concurrency:,} at once"
    if request is None:
        return [svg.text(_LEFT, top + 20, f"{head}: no request succeeded", bold=True)]
    total, spent = 1000 * request.e2el_s, parts_ms(request)
    ours = {name: taken for name, taken in spent.items() if name not in _ENGINE}
    without = f"without prefill and decode: {milliseconds(sum(ours.values()))} ms"
    parts = [
        svg.text(_LEFT, top + 20, f"{head}: {milliseconds(total)} ms", bold=True),
        svg.text(_CLOSER, top + 20, without),
    ]
    for number, name in enumerate(shown):
        y, taken = top + _HEAD + _ROW * number, spent.get(name, 0.0)
        figures = f"{milliseconds(taken)} ms, {100 * taken / total:.2f}%"
        parts += [
            svg.text(_WHOLE - 8, y + 10, name, anchor="end"),
            svg.text(_WHOLE + _BARS + 6, y + 10, figures),
        ]
    parts += _waterfall(spent, shown, _WHOLE, top + _HEAD)
    return parts + _waterfall(ours, shown, _CLOSER, top + _HEAD)


def _waterfall(
    spent: Mapping[str, float], shown: Sequence[str], left: float, top: float
) -> list[str]:
    """The time `spent` fills the width; a part that isn't in it has no bar."""
    parts: list[str] = []
    x, scale = left, _BARS / max(sum(spent.values()), 1e-9)
    for number, name in enumerate(shown):
        y = top + _ROW * number
        parts.append(svg.line([(left, y + 14), (left + _BARS, y + 14)]))
        if name in spent:
            wide = max(0.0, spent[name] * scale)
            parts.append(_bar(min(x, left + _BARS - _THINNEST), y, wide, _colour(name)))
            x += wide
    return parts


def _colour(part: str) -> str:
    owner = next((name for name, parts in _OWNERS.items() if part in parts), _GATEWAY)
    return svg.series(list(_OWNERS).index(owner))


def _bar(x: float, y: float, wide: float, colour: str) -> str:
    """However little time it is, it is seen."""
    ends = [(x, y + _THICK / 2), (x + max(wide, _THINNEST), y + _THICK / 2)]
    return svg.line(ends, colour, wide=_THICK)
