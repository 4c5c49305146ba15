"""A measurement as JSON and as a table."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.client import Failure, Outcome, Sample
from bench.measure import Measurement
from bench.stats import summarize

SCHEMA_VERSION = 1
_BUSY_CLIENT = 0.8
_LATENCIES = ("ttft", "tpot", "itl", "e2el")
_COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")


def to_record(found: Measurement, client: dict[str, Any]) -> dict[str, Any]:
    """The JSON of `--json`, described by `throughput.schema.json`.

    Only requests that succeeded count for tokens, throughput and latencies; the duration covers
    all. Latencies in milliseconds, null where there are none.
    """
    run = found.measured
    samples = [outcome for outcome in run.outcomes if isinstance(outcome, Sample)]
    tokens = _tokens(samples)
    chunks = sum(sample.content_chunks for sample in samples)
    cpu_per_token = 1e6 * found.client_cpu_s / tokens["output"] if tokens["output"] else None
    return {
        "schema": "bench.throughput",
        "schema_version": SCHEMA_VERSION,
        "started_at": found.started_at.isoformat(timespec="milliseconds"),
        "duration_s": run.duration_s,
        "interrupted": found.interrupted,
        "settings": asdict(found.settings),
        "prompts": {"layout": found.layout, "counted_by": found.counted_by},
        "server": {**asdict(found.server), "max_model_len": found.server.max_model_len},
        "client": {
            **client,
            "cpu_s": found.client_cpu_s,
            "cpu_share_of_one_core": _per(found.client_cpu_s, run.duration_s),
            "cpu_us_per_output_token": cpu_per_token,
        },
        "requests": {
            "succeeded": len(samples),
            "failed": len(run.outcomes) - len(samples),
            "abandoned": run.abandoned,
            "in_flight_mean": _per(run.busy_s, run.duration_s),
            "in_flight_peak": run.peak,
            "warmup_succeeded": sum(isinstance(o, Sample) for o in found.warmup.outcomes),
            "warmup_failed": sum(isinstance(o, Failure) for o in found.warmup.outcomes),
        },
        "tokens": {**tokens, "per_chunk": tokens["output"] / chunks if chunks else None},
        "throughput": {
            "total_tokens_per_s": _per(tokens["input"] + tokens["output"], run.duration_s),
            "output_tokens_per_s": _per(tokens["output"], run.duration_s),
            "input_tokens_per_s": _per(tokens["input"], run.duration_s),
            "requests_per_s": _per(len(samples), run.duration_s),
        },
        "latency_ms": _latencies(samples),
        "failures": _failures([*found.warmup.outcomes, *run.outcomes]),
    }


def any_failed(record: dict[str, Any]) -> bool:
    """Whether any request failed, in the warm-up or after it."""
    return bool(record["requests"]["failed"] or record["requests"]["warmup_failed"])


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Replace `path` in one step: a reader never sees half a report."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def print_report(record: dict[str, Any], console: Console) -> None:
    """The table people read."""
    server, settings, requests = record["server"], record["settings"], record["requests"]
    mode = "streamed" if settings["stream"] else "not streamed"
    version = " ".join(str(part) for part in (server["header"], server["version"]) if part)
    console.print(f"[bold]{server['model']}[/] at {server['base_url']} ({version or 'no version'})")
    console.print(
        f"{settings['endpoint']}, {mode}, {settings['input_tokens']} in / "
        f"{settings['output_tokens']} out, concurrency {settings['concurrency']} "
        f"(in flight: mean {requests['in_flight_mean']:.1f}, peak {requests['in_flight_peak']}), "
        f"seed {settings['seed']}"
    )
    warmup = requests["warmup_succeeded"] + requests["warmup_failed"]
    console.print(
        f"{requests['succeeded']} of {settings['requests']} requests in "
        f"{record['duration_s']:.2f} s, after {warmup} of warm-up"
        + (" [yellow](interrupted)[/]" if record["interrupted"] else "")
    )
    console.print(_throughput_table(record))
    console.print(_latency_table(record))
    for line in _remarks(record):
        console.print(line)
    if record["failures"]:
        console.print(_failure_table(record))
    else:
        console.print("[green]0 failures[/]")


def _tokens(samples: list[Sample]) -> dict[str, Any]:
    cached = [sample.cached_tokens for sample in samples if sample.cached_tokens is not None]
    return {
        "input": sum(sample.prompt_tokens for sample in samples),
        "output": sum(sample.completion_tokens for sample in samples),
        "input_cached": sum(cached) if cached else None,
    }


def _latencies(samples: list[Sample]) -> dict[str, Any]:
    seconds: dict[str, Iterable[float | None]] = {
        "ttft": (sample.ttft_s for sample in samples),
        "tpot": (sample.tpot_s for sample in samples),
        "itl": (gap for sample in samples for gap in sample.gaps_s),
        "e2el": (sample.e2el_s for sample in samples),
    }
    found: dict[str, Any] = {}
    for name, values in seconds.items():
        summary = summarize(value * 1000 for value in values if value is not None)
        found[name] = asdict(summary) if summary else None
    return found


def _failures(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    examples = {failure.kind: failure.detail for failure in reversed(failures)}
    return {
        kind: {"count": count, "example": examples[kind]}
        for kind, count in Counter(failure.kind for failure in failures).most_common()
    }


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _throughput_table(record: dict[str, Any]) -> Table:
    table = Table(title="Throughput", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rates = record["throughput"]
    table.add_row("total tokens/s (in + out)", f"[bold]{rates['total_tokens_per_s']:,.1f}[/]")
    table.add_row("output tokens/s", f"{rates['output_tokens_per_s']:,.1f}")
    table.add_row("input tokens/s", f"{rates['input_tokens_per_s']:,.1f}")
    table.add_row("requests/s", f"{rates['requests_per_s']:,.3f}")
    return table


def _latency_table(record: dict[str, Any]) -> Table:
    table = Table(title="Latency, ms", title_justify="left")
    table.add_column()
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for name in _LATENCIES:
        summary = record["latency_ms"][name]
        cells = [f"{summary[column]:,.1f}" if summary else "-" for column in _COLUMNS]
        table.add_row(name.upper(), *cells)
    return table


def _failure_table(record: dict[str, Any]) -> Table:
    table = Table(title="[red]Failures[/], warm-up included", title_justify="left")
    table.add_column("kind")
    table.add_column("count", justify="right")
    table.add_column("the first one")
    for kind, seen in record["failures"].items():
        # Text from a server is shown as it is, not read as markup.
        table.add_row(kind, str(seen["count"]), seen["example"].replace("[", r"\["))
    return table


def _remarks(record: dict[str, Any]) -> list[str]:
    remarks = []
    per_chunk, cached = record["tokens"]["per_chunk"], record["tokens"]["input_cached"]
    if per_chunk is not None and per_chunk > 1.05:
        remarks.append(
            f"{per_chunk:.2f} tokens per chunk: ITL is the time between chunks, not tokens."
        )
    if cached:
        share = cached / record["tokens"]["input"]
        remarks.append(f"{share:.1%} of the input tokens came from the server's prefix cache.")
    share = record["client"]["cpu_share_of_one_core"]
    if share > _BUSY_CLIENT:
        remarks.append(
            f"[yellow]This client used {share:.0%} of a core: it may be the bottleneck.[/]"
        )
    return remarks
