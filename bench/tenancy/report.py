"""How fairly a server was shared: tables, a picture, a record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.stats import Interval, bootstrap_median, percentile
from bench.tenancy.attempt import FAULTS_SHOWN
from bench.tenancy.chart import Line, Panel, distribution, to_svg
from bench.tenancy.phases import Capacity, Quiet, Shared

_TITLE = "Tenants beside each other"


@dataclass(slots=True)
class Round:
    """What one server did in one round; None for a test that wasn't run."""

    number: int
    server: str
    alone: Quiet | None = None
    flooded: Quiet | None = None
    shared: Shared | None = None
    single: Shared | None = None

    @property
    def faults(self) -> list[str]:
        seen = (self.alone, self.flooded, self.shared, self.single)
        return [fault for one in seen if one is not None for fault in one.faults]


@dataclass(slots=True)
class Fairness:
    """All rounds. `weights` are those of the tenants that all wait, by name; `early` is what failed
    before the rounds, in the warm-up and while the capacity was measured."""

    servers: tuple[str, ...]
    weights: dict[str, float]
    capacity: Capacity = field(default_factory=lambda: Capacity(0.0, 0.0))
    rounds: list[Round] = field(default_factory=list)
    early: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """All that failed, with the server's name."""
        return [
            *self.early,
            *(f"{one.server}: {fault}" for one in self.rounds for fault in one.faults),
        ]

    def of(self, server: str) -> list[Round]:
        return [one for one in self.rounds if one.server == server]

    def quiet(self, server: str, *, flooded: bool) -> list[Quiet]:
        found = (one.flooded if flooded else one.alone for one in self.of(server))
        return [one for one in found if one is not None]

    def ttft_ms(self, server: str, *, flooded: bool) -> list[float]:
        """Of all rounds together, ascending."""
        return sorted(
            1000 * ttft for one in self.quiet(server, flooded=flooded) for ttft in one.ttft_s
        )

    def ratio(self, server: str, percent: float) -> float | None:
        """How many times longer the quiet tenant waited under the flood."""
        alone, flooded = (self.ttft_ms(server, flooded=kind) for kind in (False, True))
        if not alone or not flooded:
            return None
        return percentile(flooded, percent) / percentile(alone, percent)

    def shares(self, server: str) -> dict[str, float]:
        """The median share of each tenant."""
        shared = [one.shared.shares for one in self.of(server) if one.shared is not None]
        return {name: median(one[name] for one in shared) for name in self.weights if shared}

    def off(self, server: str) -> float | None:
        """The most that a tenant's share differs from what its weight promises, as a share of
        that."""
        whole = sum(self.weights.values())
        found = self.shares(server)
        return max(
            (abs(found[name] * whole / self.weights[name] - 1) for name in found), default=None
        )

    def cost(self, server: str) -> Interval | None:
        """Tokens a second shared / of one tenant, by rounds."""
        ratios = [
            one.shared.tokens_per_s / one.single.tokens_per_s
            for one in self.of(server)
            if one.shared is not None and one.single is not None and one.single.tokens_per_s
        ]
        return bootstrap_median(ratios) if ratios else None


def to_markdown(found: Fairness) -> str:
    """The tables people read."""
    parts = [f"# {_TITLE}\n"]
    if found.capacity.requests_per_s:
        parts.append(f"Capacity: {found.capacity.requests_per_s:.2f} requests/s.\n")
    if any(one.alone for one in found.rounds):
        parts.append(_flood_table(found))
        quiet = [seen for one in found.rounds for seen in (one.alone, one.flooded) if seen]
        if any(one.unanswered for one in quiet):
            parts.append(
                "Who was never answered counts in the TTFT with the time waited: it is at least "
                "that.\n"
            )
        if found.capacity.requests_per_s:
            parts.append(
                "One dispatch quantum, the mean time until a full server has a seat again, is "
                f"{1000 / found.capacity.requests_per_s:,.0f} ms.\n"
            )
    if any(one.shared for one in found.rounds):
        parts.append(_weights_table(found))
    if found.faults:
        parts.append(f"{len(found.faults)} requests failed, the first: {found.faults[0]}\n")
    return "\n".join(parts)


def _flood_table(found: Fairness) -> str:
    rows = [
        "| server | quiet tenant | TTFT p50, ms | p95 | p95 over alone | refused | still waiting "
        "at the end | never answered | flood: sent | answered | refused |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for server in found.servers:
        for flooded in (False, True):
            seen = found.quiet(server, flooded=flooded)
            values = found.ttft_ms(server, flooded=flooded)
            ratio = found.ratio(server, 95) if flooded else None
            rows.append(
                f"| {server} | {'under flood' if flooded else 'alone'} | {_at(values, 50)} "
                f"| {_at(values, 95)} | {'' if ratio is None else f'{ratio:.2f}'} "
                f"| {sum(one.refused for one in seen)} | {sum(one.late for one in seen)} "
                f"| {sum(one.unanswered for one in seen)} "
                + "".join(f"| {count:,} " for count in _flood_counts(seen, flooded=flooded))
                + "|"
            )
    return "\n".join(rows) + "\n"


def _flood_counts(seen: Iterable[Quiet], *, flooded: bool) -> Sequence[int]:
    if not flooded:
        return (0, 0, 0)
    counts = [(one.flood_sent, one.flood_answered, one.flood_refused) for one in seen]
    return [sum(column) for column in zip(*counts, strict=True)] or (0, 0, 0)


def _weights_table(found: Fairness) -> str:
    whole = sum(found.weights.values())
    names = list(found.weights)
    rows = [
        "| server | " + " | ".join(names) + " | off by at most | tokens/s shared / one tenant |",
        "|---|" + "--:|" * (len(names) + 2),
        "| promised | "
        + " | ".join(f"{weight / whole:.3f}" for weight in found.weights.values())
        + " | | |",
    ]
    for server in found.servers:
        shares, off, cost = found.shares(server), found.off(server), found.cost(server)
        rows.append(
            f"| {server} | "
            + " | ".join(f"{shares[name]:.3f}" if name in shares else "" for name in names)
            + f" | {'' if off is None else f'{off:.1%}'} | {_interval(cost)} |"
        )
    return "\n".join(rows) + "\n"


def fairness_svg(found: Fairness) -> str:
    """The quiet tenant's TTFT as distributions, and each tenant's service over time."""
    panels = []
    lines = [
        Line(
            f"{server}, {'under flood' if flooded else 'alone'}",
            distribution(values),
            number,
            dashed=not flooded,
        )
        for number, server in enumerate(found.servers)
        for flooded in (False, True)
        if (values := found.ttft_ms(server, flooded=flooded))
    ]
    if lines:
        title = "Quiet tenant: % of requests with at most this TTFT"
        panels.append(Panel(title, "TTFT, ms", lines, log=True))
    for server in found.servers:
        last = next((one.shared for one in found.of(server)[::-1] if one.shared), None)
        if last is not None:
            courses = [
                Line(name, course, number)
                for number, (name, course) in enumerate(last.course.items())
            ]
            panels.append(Panel(f"{server}: service of tenants that all wait", "s", courses))
    return to_svg(_TITLE, panels)


def fairness_record(found: Fairness) -> dict[str, Any]:
    """Everything, by round, and the medians."""
    capacity = found.capacity
    return {
        "capacity": {
            "requests_per_s": capacity.requests_per_s,
            "tokens_per_s": capacity.tokens_per_s,
        },
        "weights": found.weights,
        "servers_found": {
            server: {
                "quiet_ttft_ms": {
                    name: {
                        f"p{percent}": percentile(values, percent) for percent in (50, 90, 95, 99)
                    }
                    for name, flooded in (("alone", False), ("flooded", True))
                    if (values := found.ttft_ms(server, flooded=flooded))
                },
                "ratio_p50": found.ratio(server, 50),
                "ratio_p95": found.ratio(server, 95),
                "shares": found.shares(server),
                "off": found.off(server),
                "throughput_shared_over_single": _interval_record(found.cost(server)),
            }
            for server in found.servers
        },
        "failed": len(found.faults),
        "faults": found.faults[:FAULTS_SHOWN],
        "rounds": [_round_record(one) for one in found.rounds],
    }


def _round_record(one: Round) -> dict[str, Any]:
    """Of what failed the first only: a flood may be ten thousand requests."""
    record = asdict(one)
    for phase in ("alone", "flooded", "shared", "single"):
        if record[phase] is not None:
            faults = record[phase]["faults"]
            record[phase] |= {"failed": len(faults), "faults": faults[:FAULTS_SHOWN]}
    return record


def _at(ordered: Sequence[float], percent: float) -> str:
    return f"{percentile(ordered, percent):,.0f}" if ordered else ""


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"


def _interval_record(found: Interval | None) -> dict[str, float] | None:
    return None if found is None else asdict(found)
