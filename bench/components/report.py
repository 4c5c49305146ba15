"""The parts of requests as JSON and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

from bench.client import Failure
from bench.components.findings import Cell, names, parts_ms
from bench.stats import Summary

SCHEMA_VERSION: Final = 1
_SHOWN: Final = ("p50", "p95")


def to_record(cells: Sequence[Cell], context: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of `--json`, in milliseconds; `context` is what was measured, how, and on what
    machine. Only requests that succeeded count for times."""
    return {
        "schema": "bench.components",
        "schema_version": SCHEMA_VERSION,
        **context,
        "cases": [_case(cell, names(cells)) for cell in cells],
    }


def _case(cell: Cell, shown: Sequence[str]) -> dict[str, Any]:
    typical = cell.typical
    return {
        "answers": cell.case.answers,
        "concurrency": cell.case.concurrency,
        "succeeded": len(cell.traces),
        "failed": len(cell.failures),
        "failures": _failures(cell.failures),
        "total_ms": _figures(cell.total),
        "parts_ms": {name: _figures(cell.summary(name)) for name in shown},
        "unexplained_most_ms": cell.unexplained_ms,
        "median_request_ms": parts_ms(typical) if typical is not None else None,
    }


def _failures(failures: Sequence[Failure]) -> dict[str, Any]:
    examples = {one.kind: one.detail for one in reversed(failures)}
    counts = Counter(one.kind for one in failures)
    return {kind: {"count": n, "example": examples[kind]} for kind, n in counts.most_common()}


def _figures(summary: Summary | None) -> dict[str, float] | None:
    return asdict(summary) if summary is not None else None


def to_markdown(cells: Sequence[Cell], round_trip_ms: float | None) -> str:
    """One table for streamed answers and one for whole ones, then what a reader has to know."""
    lines: list[str] = []
    for answers, group in groupby(cells, key=lambda cell: cell.case.answers):
        lines += _table(answers, list(group))
    lines.append(
        "Each request's parts add up to its total, but for at most "
        f"{max((cell.unexplained_ms for cell in cells), default=0.0):.3f} ms (unexplained). "
        "Medians of parts need not add up to the median of the whole."
    )
    if round_trip_ms is not None:
        lines.append(
            f"An idle round trip to the server takes {round_trip_ms:.2f} ms; what network has "
            "beyond that is waiting for busy event loops."
        )
    lines += [
        f"{cell.case.answers}, {cell.case.concurrency} at once: {seen['count']} requests failed "
        f"({kind}); the first: {seen['example']}"
        for cell in cells
        for kind, seen in _failures(cell.failures).items()
    ]
    return "\n".join(lines) + "\n"


def _table(answers: str, cells: Sequence[Cell]) -> list[str]:
    heads = [f"{cell.case.concurrency:,} at once: {figure}" for cell in cells for figure in _SHOWN]
    return [
        f"Where the time of {answers} answers goes, in ms.",
        "",
        _row("", *heads),
        "|---|" + "--:|" * len(heads),
        *(_row(name, *_cells([cell.summary(name) for cell in cells])) for name in names(cells)),
        _row("**total**", *_cells([cell.total for cell in cells])),
        "",
    ]


def _cells(summaries: Sequence[Summary | None]) -> list[str]:
    found: list[str] = []
    for one in summaries:
        found += ["-", "-"] if one is None else [milliseconds(one.p50), milliseconds(one.p95)]
    return found


def milliseconds(value: float) -> str:
    """As many digits as say something: clocks here have a microsecond."""
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
