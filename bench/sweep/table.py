"""A sweep as people read it in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.reports import svg
from bench.sweep.points import E2EL_P99, TOTAL, TPOT_P50, TTFT_P50, TTFT_P95
from bench.sweep.results import Sweep

_SHOWN = (TOTAL, TTFT_P50, TTFT_P95, TPOT_P50, E2EL_P99)


def print_sweep(sweep: Sweep, console: Console) -> None:
    """The medians, the knee, and what the objectives allow."""
    table = Table(title=sweep.title, title_justify="left")
    table.add_column(sweep.kind, justify="right", no_wrap=True, min_width=len(sweep.kind))
    for metric in _SHOWN:
        table.add_column(metric.label, justify="right")
    table.add_column("failed", justify="right")
    for point in sweep.points:
        spreads = [point.spread(metric) for metric in _SHOWN]
        cells = [svg.number(one.median) if one else "-" for one in spreads]
        table.add_row(str(point.load), *cells, str(point.failed))
    console.print(table)
    console.print(sweep.knee.reason, markup=False)
    if sweep.objectives is not None:
        console.print(f"{sweep.objectives.slo}: {sweep.objectives.sentence()}", markup=False)
        if remark := sweep.objectives.remark():
            console.print(remark, markup=False)
    if sweep.stopped is not None:
        console.print(f"Not complete: {sweep.stopped}", markup=False)
