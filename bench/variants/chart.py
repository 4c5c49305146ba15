"""The speed of every variant as a picture, with that of an earlier run marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bench.reports.svg import Axis, line, number, picture, series, text
from bench.variants.figures import SPEED

_ROW, _LEFT, _WIDTH, _RIGHT, _TOP, _BOTTOM = 30, 170, 430, 300, 56, 40
_BAR: Final = 16


def to_svg(record: Mapping[str, Any], previous: Mapping[str, Any] | None) -> str:
    """One bar a variant: total tokens/s; a dashed line for what it was before."""
    earlier = {
        entry["name"]: entry["figures"].get(SPEED) for entry in (previous or {}).get("variants", ())
    }
    entries = record["variants"]
    speeds = [entry["figures"][SPEED] or 0.0 for entry in entries]
    seen = [*speeds, *(earlier.get(entry["name"]) or 0.0 for entry in entries)]
    axis = Axis(seen, _LEFT, _LEFT + _WIDTH)
    bottom = _TOP + _ROW * len(entries)
    parts = [text(_LEFT, 24, "Total tokens/s", bold=True)]
    if any(earlier.get(entry["name"]) for entry in entries):
        parts.append(text(_LEFT, 42, "dashed: the run before", soft=True))
    for tick in axis.ticks:
        place = axis.place(tick)
        parts.append(line([(place, _TOP), (place, bottom)]))
        parts.append(text(place, bottom + 18, number(tick), anchor="middle", soft=True))
    for row, (entry, speed) in enumerate(zip(entries, speeds, strict=True)):
        middle = _TOP + _ROW * (row + 0.5)
        parts += _bar(entry, speed, earlier.get(entry["name"]), middle, axis)
    return picture("Variants", _LEFT + _WIDTH + _RIGHT, bottom + _BOTTOM, parts)


def _bar(
    entry: Mapping[str, Any], speed: float, before: float | None, middle: float, axis: Axis
) -> list[str]:
    parts = [
        text(_LEFT - 10, middle + 4, entry["name"], anchor="end"),
        line([(_LEFT, middle), (axis.place(speed), middle)], series(0), wide=_BAR),
        text(_LEFT + _WIDTH + 10, middle + 4, _label(entry), soft=not speed),
    ]
    if before:
        place = axis.place(before)
        spots = [(place, middle - _ROW / 2), (place, middle + _ROW / 2)]
        parts.append(line(spots, series(1), dashed=True, wide=2))
    return parts


def _label(entry: Mapping[str, Any]) -> str:
    figures = entry["figures"]
    if figures[SPEED] is None:
        return "not measured"
    parts = [f"{figures[SPEED]:,.0f}"]
    if figures["ttft_p50_ms"] is not None:
        parts.append(f"TTFT {figures['ttft_p50_ms']:,.0f} ms")
    if figures["perplexity"] is not None:
        parts.append(f"perplexity {figures['perplexity']:.2f}")
    return " · ".join(parts)
