"""An earlier sweep's figures beside those of this one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.reports import svg
from bench.reports.comparison import NO_CONCLUSION, Metric
from bench.sweep.points import TOTAL, TPOT_P50, TTFT_P95, Point, Spread
from bench.sweep.results import Sweep

# Of two equal runs, the ranges of four rounds each are apart by chance one time in 35.
FEWEST_ROUNDS = 4
_COMPARED = (TOTAL, TTFT_P95, TPOT_P50)
# What differs by design from one measurement to the next.
_OWN = {"seed", "concurrency", "rate", "requests", "warmup"}


def read_previous(path: Path) -> dict[str, Any]:
    """The report of an earlier `bench.sweep --json`. Raises BenchError: it is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"--previous {path}: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != "bench.sweep":
        raise BenchError(f"--previous {path}: not a report that `bench.sweep --json` wrote")
    return record


def against(sweep: Sweep, previous: Mapping[str, Any]) -> list[str]:
    """Paragraphs of Markdown: what differs between the runs, and the figures side by side."""
    rows = [_row(sweep, previous, point, metric) for metric in _COMPARED for point in sweep.points]
    rows = [row for row in rows if row]
    if not rows:
        return ["The previous run has no load in common with this one."]
    head = [f"| {sweep.kind} | | now | before | now / before |", "|--:|---|--:|--:|---|"]
    return [
        f"Before: {previous['started_at']}. The two were not interleaved: a machine that has "
        "changed its speed since then shows here as well. No conclusion where the ranges of the "
        f"rounds overlap, or where one of the two has fewer than {FEWEST_ROUNDS} rounds.",
        *_differences(sweep, previous),
        "\n".join([*head, *rows]),
    ]


def _row(sweep: Sweep, previous: Mapping[str, Any], point: Point, metric: Metric) -> str:
    """Empty where one of the two lacks the figure."""
    same = [
        one
        for one in previous["points"]
        if previous["kind"] == sweep.kind and one["load"] == point.load.value
    ]
    now, then = point.spread(metric), _spread(same[0], metric) if same else None
    if now is None or then is None:
        return ""
    return (
        f"| {point.load} | {metric.label} | {_figures(now)} | {_figures(then)} "
        f"| {_said(now, then, rounds=min(len(point.records), len(same[0]['rounds'])))} |"
    )


def _spread(point: Mapping[str, Any], metric: Metric) -> Spread | None:
    found = point["figures"].get(".".join(metric.path))
    return Spread(**found) if found else None


def _figures(one: Spread) -> str:
    if one.low == one.high:
        return svg.number(one.median)
    return f"{svg.number(one.median)} ({svg.number(one.low)} to {svg.number(one.high)})"


def _said(now: Spread, then: Spread, *, rounds: int) -> str:
    ratio = f"{now.median / then.median:.3f}" if then.median else "-"
    apart = now.low > then.high or now.high < then.low
    return ratio if apart and rounds >= FEWEST_ROUNDS else f"{ratio}, {NO_CONCLUSION}"


def _differences(sweep: Sweep, previous: Mapping[str, Any]) -> list[str]:
    now, then = sweep.points[0].records[0], previous["points"][0]["rounds"][0]
    pairs = {
        name: (then["settings"].get(name), value)
        for name, value in now["settings"].items()
        if name not in _OWN
    }
    pairs["model"] = (then["server"]["model"], now["server"]["model"])
    pairs["server version"] = (then["server"]["version"], now["server"]["version"])
    pairs["CPU"] = (then["client"]["cpu"], now["client"]["cpu"])
    pairs["cores"] = (then["client"]["cores"], now["client"]["cores"])
    changed = [
        f"{name} {before} → {here}" for name, (before, here) in pairs.items() if before != here
    ]
    return [f"**Not the same run: {'; '.join(changed)}.**"] if changed else []
