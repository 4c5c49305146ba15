"""What was found at each load: every round's report, and their medians with the spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.reports.comparison import Metric
from bench.sweep.ranges import Load

TOTAL = Metric(("throughput", "total_tokens_per_s"), "total tokens/s", higher_is_better=True)
OUTPUT = Metric(("throughput", "output_tokens_per_s"), "output tokens/s", higher_is_better=True)
REQUESTS = Metric(("throughput", "requests_per_s"), "requests/s", higher_is_better=True)
TTFT_P50 = Metric(("latency_ms", "ttft", "p50"), "TTFT p50, ms")
TTFT_P95 = Metric(("latency_ms", "ttft", "p95"), "TTFT p95, ms")
TTFT_P99 = Metric(("latency_ms", "ttft", "p99"), "TTFT p99, ms")
TPOT_P50 = Metric(("latency_ms", "tpot", "p50"), "TPOT p50, ms")
TPOT_P95 = Metric(("latency_ms", "tpot", "p95"), "TPOT p95, ms")
ITL_P99 = Metric(("latency_ms", "itl", "p99"), "ITL p99, ms")
E2EL_P50 = Metric(("latency_ms", "e2el", "p50"), "E2EL p50, ms")
E2EL_P99 = Metric(("latency_ms", "e2el", "p99"), "E2EL p99, ms")
CORES = Metric(("utilization", "cores_mean"), "server cores")
CPU = Metric(("server_cpu", "ms_per_output_token"), "server CPU per output token, ms")

METRICS = (
    *(TOTAL, OUTPUT, REQUESTS, TTFT_P50, TTFT_P95, TTFT_P99, TPOT_P50, TPOT_P95),
    *(ITL_P99, E2EL_P50, E2EL_P99, CORES, CPU),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and the lowest and the highest of them."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Point:
    """A load and the reports of its rounds (`bench.throughput`'s), in the order measured."""

    load: Load
    records: tuple[Mapping[str, Any], ...]

    def spread(self, metric: Metric) -> Spread | None:
        """None where no round has the figure."""
        values = [value for record in self.records if (value := metric.read(record)) is not None]
        return Spread(median(values), min(values), max(values)) if values else None

    @property
    def requests(self) -> int:
        """Measured requests of all rounds, the failed ones too."""
        return sum(
            record["requests"]["succeeded"] + record["requests"]["failed"]
            for record in self.records
        )

    @property
    def good(self) -> int:
        """Of these, those that met all objectives; 0 where none were set."""
        found = (record.get("goodput") for record in self.records)
        return sum(goodput["met"] for goodput in found if goodput)

    @property
    def failed(self) -> int:
        return sum(record["requests"]["failed"] for record in self.records)


def gathered(measured: Sequence[tuple[Load, Mapping[str, Any]]]) -> tuple[Point, ...]:
    """The measurements by load, the lowest load first."""
    found: dict[Load, list[Mapping[str, Any]]] = {}
    for load, record in measured:
        found.setdefault(load, []).append(record)
    return tuple(Point(load, tuple(found[load])) for load in sorted(found))
