"""Which loads meet the service level objectives, and the highest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.sweep.points import Point
from bench.sweep.ranges import Load
from bench.sweep.search import Bracket, bracket


@dataclass(frozen=True, slots=True)
class Attainment:
    """Of the requests sent at a load, over all rounds, those that met every objective.

    A request that failed met none.
    """

    load: Load
    good: int
    requests: int

    @property
    def share(self) -> float:
        return self.good / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Objectives:
    """The bounds in words, the share of requests that has to keep them, and what was found."""

    slo: str
    attain: float
    attained: tuple[Attainment, ...]

    @property
    def bracket(self) -> Bracket:
        return bracket({one.load: self.met(one) for one in self.attained})

    def met(self, one: Attainment) -> bool:
        return one.share >= self.attain

    def sentence(self) -> str:
        """The highest load that meets them, with what is known of the next."""
        found = self.bracket
        if found.missed is None:
            if found.met is None:
                return "Nothing was measured."
            return f"{_named(found.met)}, the highest of the range, meets them; higher may, too."
        again = [
            str(one.load) for one in self.attained if one.load > found.missed and self.met(one)
        ]
        if found.met is None:
            text = f"Not even {_named(found.missed)}, the lowest, meets the objectives."
        else:
            text = f"The highest load that meets the objectives: {_named(found.met)}; "
            text += f"{_named(found.missed)} misses them."
        return f"{text} Above it they were met again: {', '.join(again)}." if again else text

    def remark(self) -> str | None:
        """Where the share can't be told apart from all."""
        fewest = min((one.requests for one in self.attained), default=0)
        needed = 1 / (1 - self.attain) if self.attain < 1 else 0
        if not 0 < fewest < needed - 1e-6:
            return None
        return (
            f"With {fewest} requests at a load, a share of {self.attain:g} means every one of them."
        )


def attainments(points: Sequence[Point]) -> tuple[Attainment, ...]:
    """Of points whose reports state how many requests were good."""
    return tuple(Attainment(point.load, point.good, point.requests) for point in points)


def _named(load: Load) -> str:
    return f"{load.kind} {load}"
