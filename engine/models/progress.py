"""Progress of long steps on stderr: lines for everyone, and bars while a terminal watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

Unit = Literal["bytes", "items"]


class Track(Protocol):
    """One step under way."""

    def update(self, completed: float, total: float | None = None) -> None:
        """Say how much is done so far, and how much there is where that has changed."""
        ...


class Progress(Protocol):
    """Where long steps report to."""

    def say(self, line: str) -> None:
        """A line for every kind of output, logs included."""
        ...

    def track(
        self, title: str, total: float | None, unit: Unit = "items"
    ) -> AbstractContextManager[Track]:
        """A step worth watching; nothing of it is worth keeping in a log."""
        ...


class ConsoleProgress:
    """Lines, and rich bars where stderr is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    @contextmanager
    def track(self, title: str, total: float | None, unit: Unit = "items") -> Iterator[Track]:
        if not self._console.is_terminal:
            yield _Unseen()
            return
        amount: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
        if unit == "bytes":
            amount = (DownloadColumn(), TransferSpeedColumn())
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amount)
        with Bars(*columns, TimeRemainingColumn(), console=self._console) as bars:
            yield _Bar(bars, title, total)


class _Unseen:
    def update(self, completed: float, total: float | None = None) -> None:
        return


class _Bar:
    def __init__(self, bars: Bars, title: str, total: float | None) -> None:
        self._bars = bars
        self._task = bars.add_task(title, total=total)

    def update(self, completed: float, total: float | None = None) -> None:
        self._bars.update(self._task, completed=completed, total=total)
