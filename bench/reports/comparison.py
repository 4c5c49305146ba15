"""What several rounds of two servers say: ratios, intervals, verdicts; as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.stats import Interval, bootstrap_median

SCHEMA_VERSION = 1
NO_CONCLUSION = "no conclusion"
# What ended a run early, where no error did.
INTERRUPTED = "interrupted"
_IDLE_LIMIT = 0.05
# Two equal servers are on the same side of each other in both of two rounds half of the time, in
# all of five one time in sixteen.
FEWEST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a report: where it is, what it is called, and which way is better."""

    path: tuple[str, ...]
    label: str
    higher_is_better: bool = False

    def read(self, record: Mapping[str, Any]) -> float | None:
        """The figure, or None where the report has none."""
        value: Any = record
        for key in self.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if value is not None else None


METRICS = (
    Metric(("throughput", "total_tokens_per_s"), "total tokens/s", higher_is_better=True),
    Metric(("latency_ms", "ttft", "p50"), "TTFT p50, ms"),
    Metric(("latency_ms", "ttft", "p99"), "TTFT p99, ms"),
    Metric(("latency_ms", "tpot", "p50"), "TPOT p50, ms"),
    Metric(("latency_ms", "itl", "p99"), "ITL p99, ms"),
    Metric(("latency_ms", "e2el", "p50"), "E2EL p50, ms"),
    Metric(("latency_ms", "e2el", "p99"), "E2EL p99, ms"),
    Metric(("goodput", "requests_per_s"), "goodput, requests/s", higher_is_better=True),
    Metric(("server_cpu", "ms_per_output_token"), "server CPU per output token, ms"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric over all rounds. `ratios` are first / second, one a round."""

    metric: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    ratios: tuple[float, ...]
    median_ratio: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Round:
    """One report a server, in the order measured; `order` holds the names."""

    number: int
    order: tuple[str, str]
    records: dict[str, dict[str, Any]]

    @property
    def clean(self) -> bool:
        """Whether no measured request failed: only such rounds are compared."""
        return not any(record["requests"]["failed"] for record in self.records.values())


def compare_rounds(names: tuple[str, str], rounds: Sequence[Round]) -> list[Finding]:
    """Judge every metric that all clean rounds have of both servers; none without such rounds."""
    clean = [one for one in rounds if one.clean]
    findings = []
    for metric in METRICS:
        first = [metric.read(one.records[names[0]]) for one in clean]
        second = [metric.read(one.records[names[1]]) for one in clean]
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
        if pairs and len(pairs) == len(clean):
            findings.append(_judge(metric, names, pairs))
    return findings


def _judge(metric: Metric, names: tuple[str, str], pairs: Sequence[tuple[float, float]]) -> Finding:
    def verdict(ratio: Interval) -> str:
        if ratio.low <= 1 <= ratio.high:
            return NO_CONCLUSION
        first_is_better = (ratio.low > 1) == metric.higher_is_better
        return f"{names[0] if first_is_better else names[1]} is better"

    return judged(metric.label, pairs, verdict)


def judged(
    metric: str, pairs: Sequence[tuple[float, float]], verdict: Callable[[Interval], str]
) -> Finding:
    """What the ratios of the rounds' `pairs` say; `verdict` reads their interval, and is only asked
    where there are rounds enough."""
    ratios = tuple(a / b for a, b in pairs)
    interval = bootstrap_median(ratios)
    return Finding(
        metric=metric,
        first=tuple(a for a, _ in pairs),
        second=tuple(b for _, b in pairs),
        ratios=ratios,
        median_ratio=interval.median,
        low=interval.low,
        high=interval.high,
        verdict=NO_CONCLUSION if len(pairs) < FEWEST_ROUNDS else verdict(interval),
    )


def to_record(
    names: tuple[str, str],
    rounds: Sequence[Round],
    findings: Sequence[Finding],
    servers: Mapping[str, Any],
    environment: Mapping[str, str],
    stopped: str | None = None,
) -> dict[str, Any]:
    """The JSON of `--json`. `rounds` holds the full report of each measurement; `stopped` says
    what ended them early."""
    return {
        "schema": "bench.compare",
        "schema_version": SCHEMA_VERSION,
        "stopped": stopped,
        "names": list(names),
        "servers": dict(servers),
        "environment": dict(environment),
        "rounds": [asdict(one) for one in rounds],
        "findings": [asdict(finding) for finding in findings],
    }


def to_markdown(
    names: tuple[str, str],
    rounds: Sequence[Round],
    findings: Sequence[Finding],
    stopped: str | None = None,
) -> str:
    """The rounds, then the ratios; both as tables."""
    lines = [
        *not_complete(stopped),
        *_rounds_table(names, rounds),
        "",
        f"Ratios are {names[0]} / {names[1]}: the median of the rounds with its bootstrap 95% "
        "interval.",
        "",
        f"| metric | {names[0]} median | {names[1]} median | ratio | 95% interval | verdict |",
        "|---|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| {found.metric} | {median(found.first):,.2f} | {median(found.second):,.2f} "
        f"| {found.median_ratio:.3f} | {found.low:.3f} to {found.high:.3f} | {found.verdict} |"
        for found in findings
    ]
    return "\n".join([*lines, *_remarks(names, rounds)]) + "\n"


def _rounds_table(names: tuple[str, str], rounds: Sequence[Round]) -> list[str]:
    shown = METRICS[:4]
    head = " | ".join(metric.label for metric in shown)
    lines = [
        f"| round | server | {head} | failed | idle server's cores |",
        "|--:|---|" + "--:|" * (len(shown) + 2),
    ]
    for one in rounds:
        for name in one.order:
            record = one.records[name]
            cells = [_cell(metric.read(record)) for metric in shown]
            idle = record.get("idle_server_cores")
            lines.append(
                f"| {one.number} | {name} | {' | '.join(cells)} "
                f"| {record['requests']['failed']} | {_cell(idle)} |"
            )
    return lines


def not_complete(stopped: str | None) -> list[str]:
    """The paragraph that begins a report of less than was asked for, as lines of Markdown."""
    if stopped is None:
        return []
    return [f"**Not complete: {' '.join(stopped.split())}.** What had been measured is here.", ""]


def _uncompared(names: tuple[str, str], rounds: Sequence[Round]) -> list[str]:
    """The metrics of both servers that a 0 keeps from having ratios."""
    clean = [one for one in rounds if one.clean]
    remarks = []
    for metric in METRICS:
        read = {name: [metric.read(one.records[name]) for one in clean] for name in names}
        if any(value is None for values in read.values() for value in values):
            continue
        remarks += [
            f"{metric.label}: not compared, as {name} has 0 in {zeros} of {len(clean)} rounds."
            for name, values in read.items()
            if (zeros := values.count(0.0))
        ]
    return remarks


def _remarks(names: tuple[str, str], rounds: Sequence[Round]) -> list[str]:
    remarks = []
    if len(rounds) < FEWEST_ROUNDS:
        remarks.append(f"Fewer than {FEWEST_ROUNDS} rounds allow no conclusion.")
    faulty = [str(one.number) for one in rounds if not one.clean]
    if faulty:
        remarks.append(f"Not compared, as requests failed: round {', '.join(faulty)}.")
    remarks += _uncompared(names, rounds)
    idle = [record.get("idle_server_cores") for one in rounds for record in one.records.values()]
    busiest = max((share for share in idle if share is not None), default=0.0)
    if busiest > _IDLE_LIMIT:
        remarks.append(
            f"The idle server used up to {busiest:.2f} cores while the other was measured."
        )
    return ["", *remarks] if remarks else []


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"
