"""A comparison of answers as JSON and as tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.exact.compare import Difference
from bench.exact.plan import Case

SCHEMA_VERSION: Final = 1
_SHOWN: Final = 10
_LONGEST: Final = 400  # characters; what matters of a request comes after its prompt


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was asked of whom, what that covered, and everything that was not the same.

    `pairs` counts the answers compared, by whose they are; `bodies` are the requests that are
    spoken of in `differences`.
    """

    seed: int
    servers: Mapping[str, Mapping[str, Any]]
    coverage: Mapping[str, int]
    pairs: Mapping[str, int]
    differences: Sequence[Difference]
    bodies: Mapping[int, Mapping[str, Any]]


def to_record(found: Comparison) -> dict[str, Any]:
    """The JSON of `--json`."""
    return {
        "schema": "bench.exact",
        "schema_version": SCHEMA_VERSION,
        "seed": found.seed,
        "servers": dict(found.servers),
        "coverage": dict(found.coverage),
        "compared": dict(found.pairs),
        "differences": [
            {**asdict(one), "body": dict(found.bodies[one.request])} for one in found.differences
        ],
    }


def bodies_of(differences: Sequence[Difference], cases: Sequence[Case]) -> dict[int, Any]:
    """The requests that differences are about, by their number."""
    return {one.request: cases[one.request].body for one in differences}


def print_report(found: Comparison, console: Console) -> None:
    """What was covered, what was compared, and the first differences."""
    console.print(_figures("Covered", found.coverage))
    console.print(_verdicts(found))
    for one in found.differences[:_SHOWN]:
        console.print(f"[red]{escape(one.kind)}[/] {escape(one.between)}: {escape(one.detail)}")
        body = json.dumps(found.bodies[one.request], ensure_ascii=False)
        shown = body if len(body) <= _LONGEST else f"…{body[-_LONGEST:]}"
        console.print(f"  request {one.request}: {escape(shown)}")
    if len(found.differences) > _SHOWN:
        console.print(f"and {len(found.differences) - _SHOWN:,} more")


def _figures(title: str, figures: Mapping[str, int]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    return table


def _verdicts(found: Comparison) -> Table:
    table = Table(title="Compared", title_justify="left")
    for column, justify in (("", "left"), ("answers", "right"), ("differences", "left")):
        table.add_column(column, justify="left" if justify == "left" else "right")
    counted = Counter((one.between, one.kind) for one in found.differences)
    names = [*found.pairs, *dict.fromkeys(b for b, _ in counted if b not in found.pairs)]
    for name in names:
        kinds = [
            f"{count:,} {kind}" for (between, kind), count in counted.items() if between == name
        ]
        shown = f"[red]{', '.join(kinds)}[/]" if kinds else "[green]none[/]"
        table.add_row(escape(name), f"{found.pairs.get(name, 0):,}", shown)
    return table
