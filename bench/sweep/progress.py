"""How far a sweep is: the whole of it with the time left, and the measurement that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.cli.progress import LiveProgress
from bench.client import Outcome
from bench.measuring.measure import Settings, Watcher
from bench.sweep.points import TOTAL, TTFT_P95
from bench.sweep.ranges import Load

Planned = tuple[Load, Settings]


class SweepProgress:
    """A bar in seconds over everything, one in requests below it, a line for each measurement.

    The time of a measurement still to come is that of the same load, where it was measured, or is
    scaled from the last one: a closed loop goes in batches of its concurrency, an open one at its
    rate.
    """

    def __init__(self, bar: Progress, console: Console) -> None:
        self._bar, self._console = bar, console
        self._live: LiveProgress | None = None
        self._task = bar.add_task("sweep, seconds", total=None, running="")
        self._start = self._begun = perf_counter()
        self._ahead: list[Planned] = []
        self._done = 0
        self._took: dict[Load, float] = {}
        self._pace = 0.0

    def expect(self, planned: Sequence[Planned]) -> None:
        """More measurements, in this order."""
        self._ahead += planned

    def watching(self, load: Load) -> Watcher:
        """The watcher of the measurement that begins."""
        self._begun = perf_counter()
        label = f"{self._done + 1} of {self._done + len(self._ahead)}, {load.kind} {load}: "
        self._live = LiveProgress(self._bar, label)
        return self

    def begin(self, phase: str, total: int) -> None:
        if self._live is not None:
            self._live.begin(phase, total)

    def outcome(self, outcome: Outcome) -> None:
        if self._live is not None:
            self._live.outcome(outcome)
        self._bar.update(self._task, completed=perf_counter() - self._start)

    def finished(self, load: Load, record: Mapping[str, Any]) -> None:
        """A measurement came to its end."""
        if self._live is not None:
            self._live.finish()
        _, settings = self._ahead.pop(0)
        self._done += 1
        self._took[load] = perf_counter() - self._begun
        self._pace = self._took[load] / _size(settings)
        left = sum(self._took.get(load, self._pace * _size(one)) for load, one in self._ahead)
        now = perf_counter() - self._start
        self._bar.update(self._task, completed=now, total=now + left)
        self._console.print(
            f"{self._done} of {self._done + len(self._ahead)}: {load.kind} {load}: "
            f"{_figure(TOTAL.read(record))} total tokens/s, TTFT p95 "
            f"{_figure(TTFT_P95.read(record))} ms, {record['requests']['failed']} failed"
            + (f"; about {left:.0f} s left" if self._ahead else ""),
            soft_wrap=True,
        )


def _size(settings: Settings) -> float:
    if settings.duration_s is not None:
        return settings.duration_s
    if settings.rate is not None:
        return settings.requests / settings.rate
    return (settings.warmup + settings.requests) / settings.concurrency


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
