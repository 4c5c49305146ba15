"""An agreement as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.agreement.judging import Pair
from bench.agreement.load import Load
from bench.agreement.tool import Tool
from bench.load import without_key
from bench.reports.comparison import FEWEST_ROUNDS, Finding, not_complete

SCHEMA_VERSION = 1
_COLUMNS = (
    ("total_tokens_per_s", "total tokens/s"),
    ("ttft_p50_ms", "TTFT p50, ms"),
    ("tpot_p50_ms", "TPOT p50, ms"),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """All that was measured and found. `tools` begins with ours; `stopped` is what ended the run
    early."""

    load: Load
    tolerance: float
    server: Mapping[str, Any]
    client: Mapping[str, Any]
    tools: Sequence[Tool]
    pairs: Sequence[Pair]
    findings: Sequence[Finding]
    stopped: str | None


def to_record(found: Agreement) -> dict[str, Any]:
    """The JSON of `--json`."""
    load = asdict(found.load)
    del load["api_key"], load["seed"]
    load["base_url"] = without_key(found.load.base_url)
    return {
        "schema": "bench.agreement",
        "schema_version": SCHEMA_VERSION,
        "stopped": found.stopped,
        "load": load,
        "tolerance": found.tolerance,
        "server": dict(found.server),
        "client": dict(found.client),
        "tools": {
            tool.name: {"version": tool.version(), "notes": list(tool.notes)}
            for tool in found.tools
        },
        "pairs": [asdict(pair) for pair in found.pairs],
        "findings": [asdict(finding) for finding in found.findings],
    }


def to_markdown(found: Agreement) -> str:
    """The runs, the ratios, and how the definitions differ."""
    load = found.load
    head = (
        f"{load.endpoint}, {load.input_tokens} tokens in and {load.output_tokens} out, "
        f"{load.concurrency} requests at a time, {load.requests} in each run."
    )
    lines = [*not_complete(found.stopped), head, "", *_runs(found.pairs), "", *_ratios(found)]
    remarks = _remarks(found)
    if remarks:
        lines += ["", *remarks]
    return "\n".join([*lines, "", *_notes(found.tools)]) + "\n"


def _runs(pairs: Sequence[Pair]) -> list[str]:
    labels = [label for _, label in _COLUMNS]
    head = " | ".join(f"{label} | ours" for label in labels)
    lines = [
        f"| round | tool | first | {head} | failed |",
        "|--:|---|---|" + "--:|" * (2 * len(labels) + 1),
    ]
    for pair in pairs:
        cells = [
            f"{getattr(one, name):,.2f}" for name, _ in _COLUMNS for one in (pair.other, pair.ours)
        ]
        failed = pair.other.failed + pair.ours.failed
        first = "ours" if pair.ours_first else pair.tool
        lines.append(f"| {pair.round} | {pair.tool} | {first} | {' | '.join(cells)} | {failed} |")
    return lines


def _ratios(found: Agreement) -> list[str]:
    lines = [
        "Ratios are tool / `bench.throughput`, of runs beside each other: the median of the rounds "
        "with its bootstrap 95% interval.",
        "",
        "| tool: metric | tool's median | ours | ratio | 95% interval | verdict |",
        "|---|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| {one.metric} | {median(one.first):,.2f} | {median(one.second):,.2f} "
        f"| {one.median_ratio:.3f} | {one.low:.3f} to {one.high:.3f} | {one.verdict} |"
        for one in found.findings
    ]
    return lines


def _remarks(found: Agreement) -> list[str]:
    remarks = []
    if max((pair.round for pair in found.pairs), default=0) < FEWEST_ROUNDS:
        remarks.append(f"Fewer than {FEWEST_ROUNDS} rounds allow no conclusion.")
    faulty = [
        f"{pair.tool} in round {pair.round}"
        for pair in found.pairs
        if not pair.clean(found.load.requests)
    ]
    if faulty:
        remarks.append(f"Not compared, as requests failed or are missing: {', '.join(faulty)}.")
    return remarks


def _notes(tools: Sequence[Tool]) -> list[str]:
    lines = ["How they differ:", ""]
    for tool in tools:
        version = f" {tool.version()}" if tool.version() else ""
        lines += [f"- {tool.name}{version}: {' '.join(tool.notes)}"] if tool.notes else []
    return lines
