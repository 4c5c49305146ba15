"""A measurement as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.client import Failure, Outcome, Sample
from bench.load import without_key
from bench.measuring.loop import Sent
from bench.measuring.measure import Measurement, Settings
from bench.reports.printing import print_report
from bench.stats import summarize

__all__ = ["SCHEMA_VERSION", "any_failed", "print_report", "to_record", "write_json"]

SCHEMA_VERSION = 2
_BUSY_CLIENT = 0.8
_LATE_MS = 10.0


def to_record(found: Measurement, client: dict[str, Any]) -> dict[str, Any]:
    """The JSON of `--json`, described by `throughput.schema.json`.

    Only requests that succeeded count for tokens, throughput and latencies; the duration covers
    all. Latencies in milliseconds, null where there are none.
    """
    run = found.measured
    samples = _samples(run.sent)
    tokens = _tokens(samples)
    chunks = sum(sample.content_chunks for sample in samples)
    return {
        "schema": "bench.throughput",
        "schema_version": SCHEMA_VERSION,
        "started_at": found.started_at.isoformat(timespec="milliseconds"),
        "duration_s": run.duration_s,
        "interrupted": found.interrupted,
        "settings": _settings(found.settings),
        "prompts": {
            "layout": found.workload.layout,
            "counted_by": found.workload.counted_by,
            "notes": list(found.workload.notes),
        },
        "server": found.server.shown(),
        "client": {**client, **_client(found, tokens["output"])},
        "requests": {
            "succeeded": len(samples),
            "failed": len(run.sent) - len(samples),
            "abandoned": run.abandoned,
            "in_flight_mean": _per(run.busy_s, run.duration_s),
            "in_flight_peak": run.peak,
            "warmup_succeeded": len(_samples(found.warmup.sent)),
            "warmup_failed": len(found.warmup.sent) - len(_samples(found.warmup.sent)),
        },
        "tokens": {
            **tokens,
            "per_chunk": tokens["output"] / chunks if chunks else None,
            "input_per_request": _summary(sample.prompt_tokens for sample in samples),
            "output_per_request": _summary(sample.completion_tokens for sample in samples),
        },
        "throughput": _throughput(samples, run.duration_s),
        "latency_ms": _latencies(samples),
        "open_loop": _open_loop(found) if found.settings.open_loop else None,
        "goodput": _goodput(found) if found.settings.slo.given else None,
        "servers": _by_server(found) if len(found.targets) > 1 else [],
        "failures": _failures([*found.warmup.outcomes, *run.outcomes]),
    }


def any_failed(record: dict[str, Any]) -> bool:
    """Whether any request failed, in the warm-up or after it."""
    return bool(record["requests"]["failed"] or record["requests"]["warmup_failed"])


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Replace `path` in one step: a reader never sees half a report.

    Raises ValueError: a number is not finite, for which JSON has no word.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # Half of a surrogate pair, as a server may send it, becomes the escape that JSON has for it.
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def _settings(settings: Settings) -> dict[str, Any]:
    """Lengths that are drawn, and the dataset's path, as they are given."""
    dataset = settings.dataset
    return {
        **asdict(settings),
        "input_tokens": _length(settings.input_tokens),
        "output_tokens": _length(settings.output_tokens),
        "dataset": {**asdict(dataset), "path": None if dataset.path is None else str(dataset.path)},
    }


def _length(tokens: object) -> int | str:
    return tokens if isinstance(tokens, int) else str(tokens)


def _client(found: Measurement, output_tokens: int) -> dict[str, Any]:
    share = _per(found.client_cpu_s, found.measured.duration_s)
    lag = _summary(1000 * late for late in found.loop_lag_s)
    return {
        "cpu_s": found.client_cpu_s,
        "cpu_share_of_one_core": share,
        "cpu_us_per_output_token": (
            1e6 * found.client_cpu_s / output_tokens if output_tokens else None
        ),
        "loop_lag_ms": lag,
        "may_be_bottleneck": share > _BUSY_CLIENT or bool(lag and lag["p99"] > _LATE_MS),
    }


def _samples(sent: Iterable[Sent]) -> list[Sample]:
    return [one.outcome for one in sent if isinstance(one.outcome, Sample)]


def _tokens(samples: Sequence[Sample]) -> dict[str, Any]:
    cached = [sample.cached_tokens for sample in samples if sample.cached_tokens is not None]
    return {
        "input": sum(sample.prompt_tokens for sample in samples),
        "output": sum(sample.completion_tokens for sample in samples),
        "input_cached": sum(cached) if cached else None,
    }


def _throughput(samples: Sequence[Sample], duration_s: float) -> dict[str, float]:
    tokens = _tokens(samples)
    return {
        "total_tokens_per_s": _per(tokens["input"] + tokens["output"], duration_s),
        "output_tokens_per_s": _per(tokens["output"], duration_s),
        "input_tokens_per_s": _per(tokens["input"], duration_s),
        "requests_per_s": _per(len(samples), duration_s),
    }


def _latencies(samples: Sequence[Sample]) -> dict[str, Any]:
    seconds: dict[str, Iterable[float | None]] = {
        "ttft": (sample.ttft_s for sample in samples),
        "tpot": (sample.tpot_s for sample in samples),
        "itl": (gap for sample in samples for gap in sample.gaps_s),
        "e2el": (sample.e2el_s for sample in samples),
    }
    return {name: _milliseconds(values) for name, values in seconds.items()}


def _open_loop(found: Measurement) -> dict[str, Any]:
    """Latencies here run from when a request was due: its user waited from then on."""
    run = found.measured
    answered = [(one.outcome, one.late_s) for one in run.sent if isinstance(one.outcome, Sample)]
    return {
        "sent_late_ms": _milliseconds(one.late_s for one in run.sent),
        "held_by_limit": run.held,
        "never_sent": run.unsent,
        "latency_from_due_ms": {
            "ttft": _milliseconds(
                None if sample.ttft_s is None else sample.ttft_s + late for sample, late in answered
            ),
            "e2el": _milliseconds(sample.e2el_s + late for sample, late in answered),
        },
    }


def _goodput(found: Measurement) -> dict[str, Any]:
    run, slo = found.measured, found.settings.slo
    good = [
        one.outcome
        for one in run.sent
        if isinstance(one.outcome, Sample) and slo.met_by(one.outcome, one.late_s)
    ]
    # Failed requests, and those that were due and never sent, met nothing.
    wanted = len(run.sent) + run.unsent
    rates = _throughput(good, run.duration_s)
    return {
        "met": len(good),
        "share": len(good) / wanted if wanted else None,
        "requests_per_s": rates["requests_per_s"],
        "output_tokens_per_s": rates["output_tokens_per_s"],
        "total_tokens_per_s": rates["total_tokens_per_s"],
    }


def _by_server(found: Measurement) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    run, count = found.measured, len(found.targets)
    for place, target in enumerate(found.targets):
        sent = [one for one in run.sent if one.number % count == place]
        samples = _samples(sent)
        parts.append(
            {
                "base_url": without_key(target.base_url),
                "model": target.model,
                "requests": {"succeeded": len(samples), "failed": len(sent) - len(samples)},
                "throughput": _throughput(samples, run.duration_s),
                "latency_ms": _latencies(samples),
            }
        )
    return parts


def _failures(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    examples = {failure.kind: failure.detail for failure in reversed(failures)}
    return {
        kind: {"count": count, "example": examples[kind]}
        for kind, count in Counter(failure.kind for failure in failures).most_common()
    }


def _milliseconds(seconds: Iterable[float | None]) -> dict[str, Any] | None:
    return _summary(1000 * value for value in seconds if value is not None)


def _summary(values: Iterable[float]) -> dict[str, Any] | None:
    summary = summarize(values)
    return asdict(summary) if summary else None


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0
