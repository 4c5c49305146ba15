"""Tables on stdout: with rules in a terminal, plain columns where a program reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

PLAIN_WIDTH = 10_000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=not terminal)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(width=None if terminal else PLAIN_WIDTH, highlight=False).print(table)


def print_facts(facts: Sequence[tuple[str, str]], *, stderr: bool = False) -> None:
    """Labels and values, one a line."""
    width = max(len(label) for label, _ in facts)
    for label, value in facts:
        print(f"{label:<{width}}  {value}", file=sys.stderr if stderr else sys.stdout)


def moment(seconds: float | None, otherwise: str = "") -> str:
    """`2030-01-31 12:00 UTC`."""
    if seconds is None:
        return otherwise
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
