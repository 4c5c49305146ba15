"""The highest load that meets the objectives, by bisection between two measured loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.sweep.ranges import Load

# Closer rates than this can't be told apart by a run of minutes.
_CLOSE = 1.05


@dataclass(frozen=True, slots=True)
class Bracket:
    """The highest load up to which every one met the objectives, and the first that missed."""

    met: Load | None
    missed: Load | None

    def middle(self) -> Load | None:
        """The load to measure next; None where there is nothing, or nothing more, to find."""
        if self.met is None or self.missed is None:
            return None
        low, high = self.met.value, self.missed.value
        if self.met.kind == "concurrency":
            return Load("concurrency", int(low + high) // 2) if high - low > 1 else None
        return Load("rate", float(f"{(low + high) / 2:.4g}")) if high / low > _CLOSE else None


def bracket(met: Mapping[Load, bool]) -> Bracket:
    """From whether each measured load met the objectives."""
    last = None
    for load in sorted(met):
        if not met[load]:
            return Bracket(last, load)
        last = load
    return Bracket(last, None)
