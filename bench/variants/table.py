"""The variants as a Markdown table, with those of an earlier run beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.variants.figures import LATENCIES, PERCENTILES, SPEED

_GIB: Final = 1024**3
Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """`cell` writes figures, `keys` are those without which there is nothing to write."""

    head: str
    keys: tuple[str, ...]
    cell: Callable[[Figures], str]
    optional: bool = False


def _latency(name: str) -> Column:
    keys = tuple(f"{name}_{percentile}_ms" for percentile in PERCENTILES)
    places = 1 if name == "tpot" else 0
    return Column(
        f"{name.upper()} p50 / p95 / p99, ms",
        keys,
        lambda found: " / ".join(f"{found[key]:,.{places}f}" for key in keys),
    )


def _perplexity(found: Figures) -> str:
    low, high = found.get("perplexity_low"), found.get("perplexity_high")
    bounds = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{found['perplexity']:.2f}{bounds}"


_COLUMNS: Final = (
    Column("total tokens/s", (SPEED,), lambda found: f"{found[SPEED]:,.1f}"),
    Column(
        "of baseline", ("speed_ratio",), lambda found: f"{found['speed_ratio']:.2f}", optional=True
    ),
    *map(_latency, LATENCIES),
    Column("memory, GiB", ("memory_peak",), lambda found: f"{found['memory_peak'] / _GIB:.2f}"),
    Column("cores", ("cores_mean",), lambda found: f"{found['cores_mean']:.2f}"),
    Column(
        "GPU", ("gpu_utilization_mean",), lambda found: f"{found['gpu_utilization_mean']:.0%}",
        optional=True,
    ),
    Column(
        "GPU memory, GiB", ("gpu_memory_peak",),
        lambda found: f"{found['gpu_memory_peak'] / _GIB:.2f}", optional=True,
    ),
    Column("start, s", ("start_s",), lambda found: f"{found['start_s']:.1f}"),
    Column("perplexity [95%]", ("perplexity",), _perplexity, optional=True),
)  # fmt: skip


def to_markdown(record: Mapping[str, Any], previous: Mapping[str, Any] | None) -> str:
    """One row a variant, then what has to be known to read it."""
    earlier = {entry["name"]: entry["figures"] for entry in (previous or {}).get("variants", ())}
    entries = record["variants"]
    columns = [column for column in _COLUMNS if not column.optional or _any(column, entries)]
    lines = [
        "| variant | " + " | ".join(column.head for column in columns) + " |",
        "|---|" + "--:|" * len(columns),
        *(_row(entry, columns, earlier.get(entry["name"], {})) for entry in entries),
    ]
    return "\n".join([*lines, *_notes(record, previous)]) + "\n"


def _any(column: Column, entries: Sequence[Mapping[str, Any]]) -> bool:
    return any(_known(column, entry["figures"]) for entry in entries)


def _known(column: Column, figures: Figures) -> bool:
    return all(figures.get(key) is not None for key in column.keys)


def _row(entry: Mapping[str, Any], columns: Sequence[Column], earlier: Figures) -> str:
    cells = []
    for column in columns:
        cell = column.cell(entry["figures"]) if _known(column, entry["figures"]) else "-"
        cells.append(f"{cell} ({column.cell(earlier)})" if _known(column, earlier) else cell)
    return f"| {entry['name']} | {' | '.join(cells)} |"


def _notes(record: Mapping[str, Any], previous: Mapping[str, Any] | None) -> list[str]:
    entries = record["variants"]
    notes = ["- Cores: CPU seconds a second of all the server's processes, while it was measured."]
    if previous is not None:
        notes.append(f"- In brackets: the run of {previous['started_at'][:16].replace('T', ' ')}.")
    if record["drift"] is not None:
        notes.append(
            f"- {entries[0]['name']} at the end gave {record['drift']:.2f} of its tokens/s at the "
            "beginning. Smaller differences may be the machine's own drift."
        )
    notes += [f"- {entry['name']}: {_changes(entry)}" for entry in entries if _changes(entry)]
    notes += [
        f"- **{entry['name']} was not measured**: {_one_line(entry['reason'])}"
        for entry in entries
        if entry["reason"] is not None
    ]
    notes += [
        f"- **{entry['name']}**: not measured in round {run['round']}: {_one_line(run['error'])}"
        for entry in entries
        for run in entry["runs"]
        if run["error"] is not None and entry["reason"] is None
    ]
    notes += [
        f"- **{entry['name']}**: requests failed, of which the figures tell nothing."
        for entry in entries
        if entry["figures"]["failed_requests"]
    ]
    notes += [
        f"- {entry['name']}: no perplexity: {_one_line(run['quality']['error'])}"
        for entry in entries
        for run in entry["runs"]
        if "error" in (run["quality"] or {})
    ]
    return ["", *notes]


def _changes(entry: Mapping[str, Any]) -> str:
    """What the variant is, in words and as settings."""
    changes = [f"{key}={value}" for key, value in entry["set"].items()]
    if entry["replicas"] > 1:
        changes.insert(0, f"{entry['replicas']} servers")
    return " ".join(filter(None, [entry["about"], f"(`{', '.join(changes)}`)" if changes else ""]))


def _one_line(text: str) -> str:
    """The end of it: where a program says why it gave up."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if len(lines) < 2 else f"{lines[0]} {lines[-1]}"
