"""What the runs of a variant come to: the figures of its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from bench.reports.comparison import Metric
from bench.variants.measuring import Run
from bench.variants.variant import Variant

LATENCIES: Final = ("ttft", "tpot", "e2el")
PERCENTILES: Final = ("p50", "p95", "p99")
SPEED: Final = "total_tokens_per_s"

# Keys of `figures` in the JSON, and where in a run they are.
_METRICS: Final = {
    SPEED: ("report", "throughput", SPEED),
    "output_tokens_per_s": ("report", "throughput", "output_tokens_per_s"),
    "requests_per_s": ("report", "throughput", "requests_per_s"),
    **{
        f"{name}_{percentile}_ms": ("report", "latency_ms", name, percentile)
        for name in LATENCIES
        for percentile in PERCENTILES
    },
    "memory_peak": ("utilization", "memory_peak"),
    "cores_mean": ("utilization", "cores_mean"),
    "cores_peak": ("utilization", "cores_peak"),
    "start_s": ("start_s",),
    "perplexity": ("quality", "perplexity", "value"),
    "perplexity_low": ("quality", "perplexity", "low"),
    "perplexity_high": ("quality", "perplexity", "high"),
}
_GPU: Final = {"gpu_utilization_mean": "utilization_mean", "gpu_memory_peak": "memory_peak"}


def figures(runs: Sequence[Run]) -> dict[str, float | None]:
    """The median over the runs of each figure, of failed requests the sum: times of requests in
    ms, of the start in seconds, sizes in bytes. None where no run has it."""
    records = [run.to_record() for run in runs if run.error is None]
    found = {
        key: _median([Metric(path, key).read(record) for record in records])
        for key, path in _METRICS.items()
    }
    # Each round's failures are others: a median would hide those of one round.
    failed = [run.report["requests"]["failed"] for run in runs if run.report is not None]
    found["failed_requests"] = sum(failed) if failed else None
    gpus = {key: _median([_of_gpus(r, name) for r in records]) for key, name in _GPU.items()}
    return found | gpus


def to_entry(variant: Variant, runs: Sequence[Run], baseline: Sequence[Run]) -> dict[str, Any]:
    """One of `variants` in the JSON. `reason` says why it has no figures."""
    errors = [run.error for run in runs if run.error is not None]
    complete = any(run.error is None for run in runs)
    return {
        "name": variant.name,
        "about": variant.about,
        "set": dict(variant.settings),
        "replicas": variant.replicas,
        "figures": {**figures(runs), "speed_ratio": speed_ratio(runs, baseline)},
        "reason": None if complete else next(iter(errors), "not measured before the end"),
        "runs": [run.to_record() for run in runs],
    }


def speed_ratio(runs: Sequence[Run], baseline: Sequence[Run]) -> float | None:
    """Total tokens/s against the baseline's in the same round: the median of the rounds."""
    speeds = {run.round: _speed(run) for run in baseline}
    pairs = [(_speed(run), speeds.get(run.round)) for run in runs]
    return _median([one / other for one, other in pairs if one and other])


def drift(baseline: Sequence[Run], closing: Run | None) -> float | None:
    """The baseline's total tokens/s at the end by those at the beginning."""
    first = _speed(baseline[0]) if baseline else None
    last = None if closing is None else _speed(closing)
    return last / first if first and last else None


def _speed(run: Run) -> float | None:
    return Metric(_METRICS[SPEED], SPEED).read(run.to_record())


def _of_gpus(record: Mapping[str, Any], name: str) -> float | None:
    """The mean of the shares, the sum of the sizes, of all GPUs in use."""
    gpus = (record["utilization"] or {}).get("gpus", [])
    values = [gpu[name] for gpu in gpus if gpu[name] is not None]
    if not values:
        return None
    return float(sum(values)) / (len(values) if name == "utilization_mean" else 1)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
