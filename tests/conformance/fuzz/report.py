"""The results for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.conformance.fuzz.cases import Outcome

_MOST_SHOWN = 600


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """A table for each description, then every failure."""
    for outcome in outcomes:
        total: Counter[int] = Counter()
        for operation in outcome.operations:
            total.update(operation.statuses)
        table = Table(show_footer=True, title=outcome.description)
        table.add_column("operation", "all")
        table.add_column("cases", str(outcome.cases), justify="right")
        table.add_column("statuses", _told(total))
        table.add_column("failures", str(len(outcome.failures)), justify="right")
        for one in outcome.operations:
            style = "red" if one.failures else None
            failures = str(len(one.failures) or "")
            table.add_row(one.name, str(one.cases), _told(one.statuses), failures, style=style)
        console.print(table)
    for outcome in outcomes:
        for failure in outcome.failures:
            console.print(f"[red]{failure.status}[/] {outcome.description} {failure.operation}")
            console.print(f"  {escape(failure.message[:_MOST_SHOWN])}")
            console.print(f"  {escape(failure.curl[:_MOST_SHOWN])}", style="dim")


def _told(statuses: dict[int, int]) -> str:
    return "  ".join(f"{status or 'none'}: {statuses[status]}" for status in sorted(statuses))
