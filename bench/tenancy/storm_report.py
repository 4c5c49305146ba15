"""How servers took an overload: a table, a picture, a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.stats import percentile
from bench.tenancy.attempt import FAULTS_SHOWN
from bench.tenancy.chart import Line, Panel, to_svg
from bench.tenancy.storm import Point, Storm

_SHARES = (50, 90, 95, 99)


def to_markdown(found: Mapping[str, Storm]) -> str:
    """The table people read."""
    lines = [
        "| | " + " | ".join(found) + " |",
        "|---|" + "--:|" * len(found),
        *(
            f"| {name} | " + " | ".join(tell(one) for one in found.values()) + " |"
            for name, tell in _ROWS
        ),
    ]
    faults = [f"{name}: {fault}" for name, one in found.items() for fault in one.faults]
    if faults:
        lines += ["", f"{len(faults)} requests failed, the first: {faults[0]}"]
    return "\n".join(lines) + "\n"


def storm_svg(found: Mapping[str, Storm]) -> str:
    """Good answers, refusals and memory over the time of the load."""
    return to_svg(
        "Overload",
        [
            Panel("Good answers a second", "s", _lines(found, lambda point: point.good_per_s)),
            Panel("Refusals a second", "s", _lines(found, lambda point: point.refused_per_s)),
            Panel("Resident MiB of the serving process", "s", _lines(found, _rss)),
        ],
    )


def storm_record(found: Mapping[str, Storm]) -> dict[str, Any]:
    """Everything but the single latencies, of which there are many."""
    return {name: _record(one) for name, one in found.items()}


def _record(one: Storm) -> dict[str, Any]:
    record = asdict(one)
    for name in ("ttft_s", "reject_s", "advice_s", "client_lag_s"):
        values = sorted(record.pop(name))
        record[name] = {f"p{p}": percentile(values, p) for p in _SHARES} if values else None
    record["faults"] = one.faults[:FAULTS_SHOWN]
    record["failed"] = len(one.faults)
    record["first_retry_share"] = one.first_retry_share
    record["possible_share"] = one.possible_share
    return record


def _lines(found: Mapping[str, Storm], of: Callable[[Point], float | None]) -> list[Line]:
    lines = []
    for number, (name, one) in enumerate(found.items()):
        values = [(point.at, value) for point in one.course if (value := of(point)) is not None]
        if values:
            lines.append(Line(name, _smoothed(values), number))
    return lines


def _smoothed(points: Sequence[tuple[float, float]], width: int = 6) -> list[tuple[float, float]]:
    found = []
    for number, (at, _) in enumerate(points):
        window = points[max(0, number - width + 1) : number + 1]
        found.append((at, sum(value for _, value in window) / len(window)))
    return found


def _rss(point: Point) -> float | None:
    return point.rss_mib


def _ms(values: Sequence[float], percent: float) -> str:
    return f"{1000 * percentile(values, percent):,.0f}" if values else "-"


def _number(value: float | None, form: str = ",.1f") -> str:
    return "-" if value is None else format(value, form)


def _goodput(one: Storm) -> str:
    share = one.good_per_s / one.peak_good_per_s if one.peak_good_per_s else 0.0
    return f"{one.good_per_s:.2f} ({share:.0%})"


def _recovery(one: Storm) -> str:
    if one.recovered_s is None:
        return f"not within {one.recovery_s:g}"
    return _number(one.recovered_s)


_ROWS: tuple[tuple[str, Callable[[Storm], str]], ...] = (
    ("capacity, requests/s", lambda one: f"{one.capacity_per_s:.2f}"),
    ("peak goodput, requests/s", lambda one: f"{one.peak_good_per_s:.2f}"),
    ("goodput under overload (of peak)", _goodput),
    ("attempts sent", lambda one: f"{one.sent:,}"),
    ("answered", lambda one: f"{one.answered:,}"),
    ("refused", lambda one: f"{one.refused:,}"),
    ("refused without advice when to come back", lambda one: f"{one.unadvised:,}"),
    ("refused in a stream that began with 200", lambda one: f"{one.disguised:,}"),
    ("refusal after p50, ms", lambda one: _ms(one.reject_s, 50)),
    ("refusal after p99, ms", lambda one: _ms(one.reject_s, 99)),
    ("lag of the client itself p99, ms", lambda one: _ms(sorted(one.client_lag_s), 99)),
    ("advised to wait p50, s", lambda one: _number(_at(one.advice_s, 50))),
    ("came back once", lambda one: f"{one.first_retries:,}"),
    ("let in then", lambda one: _number(one.first_retry_share, ".0%")),
    ("possible at most", lambda one: _number(one.possible_share, ".0%")),
    ("still advised to wait at the end", lambda one: f"{one.gave_up:,}"),
    ("still waiting for an answer at the end", lambda one: f"{one.left_waiting:,}"),
    ("never answered, TTFT at least the time waited", lambda one: f"{one.unanswered:,}"),
    ("TTFT p50, ms", lambda one: _ms(one.ttft_s, 50)),
    ("TTFT p99, ms", lambda one: _ms(one.ttft_s, 99)),
    ("memory grew by at most, MiB", lambda one: _number(one.rss_growth_mib)),
    ("memory more than before afterwards, MiB", lambda one: _number(one.rss_after_mib)),
    ("back to normal after, s", _recovery),
    ("client, of one core", lambda one: f"{one.client_cpu:.0%}"),
)


def _at(values: Sequence[float], percent: float) -> float | None:
    return percentile(values, percent) if values else None
