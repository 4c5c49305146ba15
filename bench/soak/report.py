"""What a soak test has found, as JSON, tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.soak.fairness import Seen, ratios
from bench.soak.leaks import ENGINE, SERVING, Point, Tally, trends
from bench.soak.plot import to_svg
from bench.utilization.process import Holdings

_MIB: Final = 1024 * 1024
_SHOWN: Final = 10
_BUSY: Final = 0.9


def fairness_record(runs: Sequence[Seen]) -> dict[str, Any]:
    """The runs in their order, and the ratios disturbed / healthy."""
    return {
        "runs": [asdict(one) for one in runs],
        "ratios": {name: asdict(interval) for name, interval in ratios(runs).items()},
    }


def print_fairness(runs: Sequence[Seen], console: Console) -> None:
    """Every run, then the ratios."""
    table = Table(title="What those saw who neither stalled nor left", title_justify="left")
    table.add_column("readers")
    for column in ("streams", "tokens/s", "TTFT p50 / p99, ms", "ITL p50 / p99, ms", "wrong"):
        table.add_column(column, justify="right")
    for one in runs:
        table.add_row(
            "disturbed" if one.disturbed else "healthy",
            f"{one.streams:,}",
            f"{one.tokens_per_s:,.0f}",
            _pair(one, "ttft"),
            _pair(one, "itl"),
            f"{len(one.faults):,}",
        )
    console.print(table)
    busiest = max(one.client_cpu_share for one in runs)
    if busiest > _BUSY:
        console.print(f"[yellow]The client used {busiest:.0%} of a core: it may be what limits.[/]")
    for name, interval in ratios(runs).items():
        console.print(
            f"{_label(name)}, disturbed / healthy: {interval.median:.3f} "
            f"({interval.low:.3f} to {interval.high:.3f})"
        )
    _print_faults([fault for one in runs for fault in one.faults], console)


def leaks_record(
    tally: Tally, before: Holdings, after: Holdings, leaks: Sequence[str]
) -> dict[str, Any]:
    """Every measurement; memory in bytes, slopes in bytes a request."""
    return {
        "requests": dict(tally.counts),
        "points": [asdict(point) for point in tally.points],
        "trends": {
            name: {**asdict(line), "flat": line.flat} for name, line in trends(tally.points).items()
        },
        "before": asdict(before),
        "after": asdict(after),
        "leaks": list(leaks),
        "faults": tally.faults,
    }


def print_leaks(
    tally: Tally, before: Holdings, after: Holdings, leaks: Sequence[str], console: Console
) -> None:
    """What was sent, what the server holds, and what of it is too much."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.counts.items()))
    console.print(f"{tally.counts.total():,} requests: {kinds}")
    for name, line in trends(tally.points).items():
        console.print(
            f"memory of the {name}: {line.slope:+,.1f} ± {line.standard_error:,.1f} bytes a "
            f"request, {line.growth:+.2%} in all: {'flat' if line.flat else 'growing'}"
        )
    for name in ("descriptors", "threads"):
        console.print(f"{name}: {getattr(before, name)} before, {getattr(after, name)} after")
    gauges = ", ".join(f"{name} {value:g}" for name, value in sorted(after.gauges.items()))
    console.print(f"gauges after: {gauges or 'none'}")
    for leak in leaks:
        console.print(f"[red]leaked[/] {escape(leak)}")
    _print_faults(tally.faults, console)


def memory_svg(points: Sequence[Point]) -> str:
    """How the memory grew from the first measurement on."""
    series = {
        SERVING: [point.memory.serving / _MIB for point in points],
        ENGINE: [point.memory.children / _MIB for point in points],
    }
    shown = {name: values for name, values in series.items() if all(values)}
    return to_svg(
        "Resident memory after the warm-up, MiB above its first measurement",
        [point.requests for point in points],
        shown,
    )


def _pair(run: Seen, latency: str) -> str:
    values = [run.metrics.get(f"{latency}_{rank}_ms") for rank in ("p50", "p99")]
    return " / ".join("-" if value is None else f"{value:,.1f}" for value in values)


def _label(metric: str) -> str:
    name, percent, unit = metric.split("_")
    return f"{name.upper()} {percent}, {unit}"


def _print_faults(faults: Sequence[str], console: Console) -> None:
    for fault in faults[:_SHOWN]:
        console.print(f"[red]wrong[/] {escape(fault)}")
    if len(faults) > _SHOWN:
        console.print(f"and {len(faults) - _SHOWN:,} more")
