"""The results for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.conformance.expectations import Result
from tests.conformance.outcomes import State

# pytest's words, short enough for a narrow terminal.
_TITLES: dict[State, str] = {
    "passed": "pass",
    "skipped": "skip",
    "expected": "xfail",
    "unexpected": "xpass",
    "failed": "fail",
}
_MOST_SHOWN = 300


def show(results: Sequence[Result], console: Console) -> None:
    """One table, then every test that isn't as expected."""
    caption = "xfail: failed, as expected.toml says; xpass: passed, though it says otherwise"
    table = Table(show_footer=True, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("suite", "all", no_wrap=True)
    table.add_column("client")
    for state, title in _TITLES.items():
        total = sum(result.count(state) for result in results)
        table.add_column(title, str(total), justify="right", no_wrap=True)
    seconds = f"{sum(result.seconds for result in results):.0f}"
    table.add_column("s", seconds, justify="right", no_wrap=True)
    for result in results:
        counts = [str(result.count(state) or "") for state in _TITLES]
        style = None if result.good else "red"
        table.add_row(result.suite, result.client, *counts, f"{result.seconds:.0f}", style=style)
    console.print(table)
    for result in results:
        for one in result.outcomes:
            if one.state in ("failed", "unexpected"):
                detail = escape(" ".join(one.detail.split())[:_MOST_SHOWN])
                console.print(f"[red]{one.state}[/] {result.suite} {escape(one.name)}: {detail}")
