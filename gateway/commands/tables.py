"""Tables on stdout: with rules in a terminal, plain columns where a program reads them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

PLAIN_WIDTH = 10_000


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], wrapped: Collection[str] = ()
) -> None:
    """Nothing is cut off. Cells of the columns that may be `wrapped` take several lines where the
    terminal is narrow; where it is narrower than all others, lines run on."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    cells = list(rows)
    for number, column in enumerate(columns):
        widest = max(cell_len(text) for text in (column, *(row[number] for row in cells)))
        wrap = terminal and column in wrapped
        table.add_column(column, no_wrap=not wrap, min_width=None if wrap else widest)
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    width = PLAIN_WIDTH
    if terminal:
        unbound = Console(width=PLAIN_WIDTH)
        width = max(unbound.measure(table).minimum, Console().width)
    Console(width=width, highlight=False).print(table)


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
