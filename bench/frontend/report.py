"""What the rounds of the front-end benchmark say: medians, ratios with intervals, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median
from typing import Any, Final

from bench.frontend.run import Figures
from bench.stats import Interval, bootstrap_median

SCHEMA_VERSION: Final = 1
_BUSY_CLIENT = 0.9


@dataclass(frozen=True, slots=True)
class Column:
    """One of the figures, and what people call it."""

    name: str
    label: str
    decimals: int = 1

    def read(self, figures: Figures) -> float | None:
        value: float | None = getattr(figures, self.name)
        return value


TOKEN_COST: Final = Column("token_us", "CPU µs per streamed token")
TTFT_P50: Final = Column("ttft_p50_ms", "TTFT p50, ms")
TTFT_P99: Final = Column("ttft_p99_ms", "TTFT p99, ms")
COLUMNS: Final = (
    TOKEN_COST,
    Column("token_all_in_us", "CPU µs per token, requests included"),
    Column("children_token_us", "children's CPU µs per token"),
    Column("streamed_request_us", "CPU µs per request, streamed", 0),
    Column("whole_request_us", "CPU µs per request, not streamed", 0),
    Column("output_tokens_per_s", "output tokens/s", 0),
    TTFT_P50,
    TTFT_P99,
    Column("itl_p50_ms", "ITL p50, ms"),
    Column("itl_p99_ms", "ITL p99, ms"),
)
# The children are the engine, which is the same; how much of it a token costs is no merit.
_COMPARED: Final = tuple(column for column in COLUMNS if column.name != "children_token_us")


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of every server at every concurrency, servers in the order of `order`."""

    number: int
    order: tuple[str, ...]
    figures: dict[int, dict[str, Figures]]


@dataclass(frozen=True, slots=True)
class Findings:
    """The rounds read together. The first of `names` is what the others are compared to.

    Only what was measured without a wrong answer counts.
    """

    names: tuple[str, ...]
    concurrencies: tuple[int, ...]
    rounds: tuple[Round, ...]

    def values(self, name: str, concurrency: int, column: Column) -> list[float]:
        """One value a round."""
        found = (column.read(one.figures[concurrency][name]) for one in self._clean(concurrency))
        return [value for value in found if value is not None]

    def ratio(self, other: str, concurrency: int, column: Column) -> Interval | None:
        """`other` / first of the rounds; None where there are none."""
        rounds = [one.figures[concurrency] for one in self._clean(concurrency)]
        pairs = [(column.read(one[other]), column.read(one[self.names[0]])) for one in rounds]
        ratios = [a / b for a, b in pairs if a is not None and b is not None and b > 0]
        return bootstrap_median(ratios) if ratios else None

    @property
    def faulty(self) -> int:
        """How many answers were wrong."""
        return sum(figures.faulty for _, _, _, figures in self._all())

    def remarks(self) -> list[str]:
        """What a reader of the tables has to know."""
        remarks = [
            f"Round {number}, {name}, concurrency {concurrency}: {figures.faulty} wrong answers, "
            f"not counted above; the first: {figures.faults[0]}"
            for number, concurrency, name, figures in self._all()
            if figures.faulty
        ]
        busiest = max((figures.client_share for _, _, _, figures in self._all()), default=0.0)
        if busiest > _BUSY_CLIENT:
            remarks.append(
                f"The load generator kept a core {busiest:.0%} busy: it may have been the limit."
            )
        return remarks

    def _clean(self, concurrency: int) -> list[Round]:
        return [
            one
            for one in self.rounds
            if not any(figures.faulty for figures in one.figures[concurrency].values())
        ]

    def _all(self) -> list[tuple[int, int, str, Figures]]:
        return [
            (one.number, concurrency, name, figures)
            for one in self.rounds
            for concurrency, measured in one.figures.items()
            for name, figures in measured.items()
        ]


def to_markdown(findings: Findings) -> str:
    """The medians of the rounds, then the ratios; both as tables."""
    lines = [
        f"Medians of the rounds ({len(findings.rounds)}); CPU of the serving process alone.",
        "",
        _row("at once", "server", *(column.label for column in COLUMNS)),
        "|--:|---|" + "--:|" * len(COLUMNS),
    ]
    for concurrency, name in product(findings.concurrencies, findings.names):
        cells = [_median(findings.values(name, concurrency, column), column) for column in COLUMNS]
        lines.append(_row(f"{concurrency:,}", name, *cells))
    for other in findings.names[1:]:
        lines += ["", *_ratios(findings, other)]
    remarks = findings.remarks()
    return "\n".join([*lines, *([""] if remarks else []), *remarks]) + "\n"


def to_record(findings: Findings, context: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of `--json`; `context` is what was measured, how, and on what machine."""
    ratios = [
        {
            "server": other,
            "concurrency": concurrency,
            "figure": column.name,
            **asdict(ratio),
        }
        for other, concurrency, column in product(
            findings.names[1:], findings.concurrencies, _COMPARED
        )
        if (ratio := findings.ratio(other, concurrency, column)) is not None
    ]
    return {
        "schema": "bench.frontend",
        "schema_version": SCHEMA_VERSION,
        **context,
        "rounds": [asdict(one) for one in findings.rounds],
        "ratios_to": findings.names[0],
        "ratios": ratios,
    }


def _ratios(findings: Findings, other: str) -> list[str]:
    first = findings.names[0]
    heads = [f"{concurrency:,} at once" for concurrency in findings.concurrencies]
    lines = [
        f"{other} / {first}: the median ratio of the rounds with its bootstrap 95% interval.",
        "",
        _row(f"{other} / {first}", *heads),
        "|---|" + "--:|" * len(heads),
    ]
    for column in _COMPARED:
        cells = [
            _interval(findings.ratio(other, concurrency, column))
            for concurrency in findings.concurrencies
        ]
        lines.append(_row(column.label, *cells))
    return lines


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _median(values: Sequence[float], column: Column) -> str:
    return f"{median(values):,.{column.decimals}f}" if values else "-"


def _interval(ratio: Interval | None) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else "-"
