"""What a sweep found, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.sweep.knee import Knee, find_knee
from bench.sweep.objectives import Objectives, attainments
from bench.sweep.points import METRICS, Point, gathered
from bench.sweep.ranges import Kind, Load

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Sweep:
    """The points, lowest load first, and what they say. `stopped`: why some are missing."""

    kind: Kind
    command: str
    points: tuple[Point, ...]
    knee: Knee
    objectives: Objectives | None
    stopped: str | None = None

    @property
    def title(self) -> str:
        if not self.points:
            return "Sweep"
        model = self.points[0].records[0]["server"]["model"]
        first, last = self.points[0].load, self.points[-1].load
        return f"{model} at {self.kind} {first} to {last}"

    @property
    def started_at(self) -> str:
        return min(
            (str(record["started_at"]) for point in self.points for record in point.records),
            default="",
        )


def found(
    kind: Kind,
    command: str,
    measured: Sequence[tuple[Load, Mapping[str, Any]]],
    *,
    slo: str | None,
    attain: float,
    stopped: str | None,
) -> Sweep:
    """Judge what was measured. `slo` are the objectives in words, None without any."""
    points = gathered(measured)
    objectives = None if slo is None else Objectives(slo, attain, attainments(points))
    return Sweep(kind, command, points, find_knee(points), objectives, stopped)


def to_record(sweep: Sweep) -> dict[str, Any]:
    """The JSON of `--json`. Each round is a whole report of `bench.throughput`."""
    return {
        "schema": "bench.sweep",
        "schema_version": SCHEMA_VERSION,
        "command": sweep.command,
        "started_at": sweep.started_at,
        "stopped": sweep.stopped,
        "kind": sweep.kind,
        "points": [_point(point) for point in sweep.points],
        "knee": {"load": _value(sweep.knee.load), "reason": sweep.knee.reason},
        "objectives": _objectives(sweep.objectives) if sweep.objectives else None,
    }


def _point(point: Point) -> dict[str, Any]:
    figures = {".".join(metric.path): point.spread(metric) for metric in METRICS}
    return {
        "load": point.load.value,
        "figures": {name: asdict(spread) if spread else None for name, spread in figures.items()},
        "rounds": list(point.records),
    }


def _objectives(objectives: Objectives) -> dict[str, Any]:
    bracket = objectives.bracket
    return {
        "slo": objectives.slo,
        "attain": objectives.attain,
        "highest_that_meets": _value(bracket.met),
        "first_that_misses": _value(bracket.missed),
        "sentence": objectives.sentence(),
        "loads": [
            {"load": one.load.value, "good": one.good, "requests": one.requests}
            for one in objectives.attained
        ],
    }


def _value(load: Load | None) -> float | None:
    return load.value if load else None
