"""A sweep as Markdown, as one HTML page, and as rows of CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from bench.reports import svg
from bench.reports.comparison import Metric
from bench.reports.page import html_page
from bench.sweep.chart import to_svg
from bench.sweep.points import (
    CORES,
    CPU,
    E2EL_P99,
    ITL_P99,
    METRICS,
    OUTPUT,
    REQUESTS,
    TOTAL,
    TPOT_P50,
    TPOT_P95,
    TTFT_P50,
    TTFT_P95,
    TTFT_P99,
    Point,
)
from bench.sweep.previous import against
from bench.sweep.results import Sweep

_SHOWN = (
    *(TOTAL, OUTPUT, REQUESTS, TTFT_P50, TTFT_P95, TTFT_P99, TPOT_P50, TPOT_P95),
    *(ITL_P99, E2EL_P99, CORES, CPU),
)
_KNEE = (
    "The knee is found by Kneedle (Satopää, Albrecht, Irwin, Raghavan 2011): the load at which "
    "total tokens/s are furthest above the straight line from the lowest load to the highest, with "
    "both axes scaled to 0..1, where that height then falls by a mean step of the load, and where "
    "it is more than the largest spread of the rounds (with one round: than a tenth of the highest "
    "throughput). The throughput has to change over the loads by more than twice that."
)


def to_markdown(sweep: Sweep, picture: str, previous: Mapping[str, Any] | None = None) -> str:
    """The report; `picture` is what the image of the chart is called."""
    parts = [f"# {sweep.title}", *_opening(sweep)]
    if not sweep.points:
        return _joined([*parts, "Nothing was measured."])
    parts += [f"![{sweep.title}]({picture})", "## Loads", _table(sweep.points), _spread(sweep)]
    parts += _client(sweep.points)
    parts += [sweep.knee.reason, *_objectives(sweep)]
    if previous is not None:
        parts += ["## Against the previous run", *against(sweep, previous)]
    parts += ["## How it was measured", _KNEE, *_how(sweep)]
    return _joined(parts)


def to_html(sweep: Sweep, previous: Mapping[str, Any] | None = None) -> str:
    """The same report in one file, with its chart inside."""
    chart = to_svg(sweep.title, sweep.points, sweep.knee)
    return html_page(sweep.title, to_markdown(sweep, "chart", previous), {"chart": chart})


def to_csv(sweep: Sweep) -> str:
    """A row for each measurement, in the order of the loads and then of the rounds."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    paths = [".".join(metric.path) for metric in METRICS]
    rows.writerow([sweep.kind, "round", "seed", "succeeded", "failed", "duration_s", *paths])
    for point in sweep.points:
        for number, record in enumerate(point.records, 1):
            requests, seed = record["requests"], record["settings"]["seed"]
            figures = [metric.read(record) for metric in METRICS]
            start = [f"{point.load.value:g}", number, seed]
            counts = [requests["succeeded"], requests["failed"], record["duration_s"]]
            rows.writerow([*start, *counts, *("" if one is None else one for one in figures)])
    return out.getvalue()


def _opening(sweep: Sweep) -> list[str]:
    if sweep.stopped is None:
        return []
    return [f"**Not complete: {' '.join(sweep.stopped.split())}.** What had been measured is here."]


def _table(points: Sequence[Point]) -> str:
    shown = [one for one in _SHOWN if any(point.spread(one) for point in points)]
    lines = [
        f"| {points[0].load.kind} | {' | '.join(one.label for one in shown)} | failed |",
        "|--:|" + "--:|" * (len(shown) + 1),
    ]
    for point in points:
        cells = [_cell(point, metric) for metric in shown]
        lines.append(f"| {point.load} | {' | '.join(cells)} | {point.failed} |")
    return "\n".join(lines)


def _cell(point: Point, metric: Metric) -> str:
    found = point.spread(metric)
    if found is None:
        return "-"
    if len(point.records) == 1:
        return svg.number(found.median)
    return f"{svg.number(found.median)} ({svg.number(found.low)} to {svg.number(found.high)})"


def _spread(sweep: Sweep) -> str:
    rounds = {len(point.records) for point in sweep.points}
    if rounds == {1}:
        return "One round: how much the figures vary from run to run is not known."
    few, many = min(rounds), max(rounds)
    count = str(many) if few == many else f"{few} to {many}"
    return f"Medians of {count} rounds, and in brackets the lowest and the highest of them."


def _client(points: Sequence[Point]) -> list[str]:
    slow = [
        str(point.load)
        for point in points
        if any(record["client"].get("may_be_bottleneck") for record in point.records)
    ]
    if not slow:
        return []
    return [
        f"**At {', '.join(slow)} this client was busy, or had to wait for a core: it may be the "
        "bottleneck.**"
    ]


def _objectives(sweep: Sweep) -> list[str]:
    wanted = sweep.objectives
    if wanted is None:
        return []
    lines = ["| load | good requests | share | |", "|--:|--:|--:|---|"]
    for one in wanted.attained:
        verdict = "meets" if wanted.met(one) else "misses"
        lines.append(f"| {one.load} | {one.good} of {one.requests} | {one.share:.1%} | {verdict} |")
    remark = wanted.remark()
    return [
        "## Objectives",
        f"{wanted.slo}, kept by at least {100 * wanted.attain:.4g} % of the requests sent.",
        "\n".join(lines),
        wanted.sentence(),
        *([remark] if remark else []),
    ]


def _how(sweep: Sweep) -> list[str]:
    record = sweep.points[0].records[0]
    server, client, settings = record["server"], record["client"], record["settings"]
    kind = "closed loop" if sweep.kind == "concurrency" else "open loop"
    stream = "streamed" if settings["stream"] else "not streamed"
    version = " ".join(str(one) for one in (server["header"], server["version"]) if one)
    facts = [
        f"Server: {server['model']}, {version or 'no version stated'}",
        f"Requests: {settings['endpoint']}, {stream}, {_lengths(record)}, {kind}; "
        "new prompts for every measurement, after a warm-up",
        f"Order of the loads: up in odd rounds, down in even ones; begun {sweep.started_at}",
        f"Machine of the client: {client['cpu']}, {client['cores']} cores, "
        f"{client['platform']}, Python {client['python']}",
    ]
    return ["\n".join(f"- {fact}" for fact in facts), f"```sh\n{sweep.command}\n```"]


def _lengths(record: Mapping[str, Any]) -> str:
    tokens, done = record["tokens"], record["requests"]["succeeded"]
    if not done:
        return "none answered"
    return f"{tokens['input'] / done:,.4g} tokens in and {tokens['output'] / done:,.4g} out (mean)"


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"
