"""A live line on standard error while a measurement runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.client import Failure, Outcome


class LiveProgress:
    """Requests done, time left, tokens a second so far, failures so far."""

    def __init__(self, progress: Progress, label: str = "") -> None:
        self._progress = progress
        self._label = label
        self._task: TaskID | None = None
        self._start = 0.0
        self._tokens = 0
        self._failed = 0

    def begin(self, phase: str, total: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._start, self._tokens, self._failed = perf_counter(), 0, 0
        description = f"{self._label}{phase}"
        self._task = self._progress.add_task(description, total=total or None, running="")

    def outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._failed += 1
        else:
            self._tokens += outcome.prompt_tokens + outcome.completion_tokens
        if self._task is None:
            return
        rate = self._tokens / (perf_counter() - self._start)
        failed = f" [red]{self._failed} failed[/]" if self._failed else ""
        self._progress.update(self._task, advance=1, running=f"{rate:,.0f} tok/s{failed}")

    def finish(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


@contextmanager
def live_progress(console: Console) -> Iterator[Progress]:
    """Redraws twice a second, so that drawing takes no noticeable time from the measurement."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[running]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
        yield progress
