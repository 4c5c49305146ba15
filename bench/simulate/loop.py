"""An event loop whose time passes only when nothing is left to do, and then at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NothingHappensError(Exception):
    """Somebody waits, and there is neither work nor a timer left that could wake him."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs coroutines and timers in the order of their times; it knows no sockets, no threads and
    no signals. Two runs of the same program take the same steps.
    """

    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self

    def time(self) -> float:
        return self._now

    def skip(self, seconds: float) -> None:
        """Be later, between programs."""
        self._now += seconds

    def play(self, program: Coroutine[Any, Any, T]) -> T:
        """Run to the end. Raises NothingHappensError, and what the program raises."""
        try:
            return self.run_until_complete(program)
        finally:
            # What an error left behind must not complain when it is collected.
            for task in asyncio.all_tasks(self):
                task.cancel()
            self.run_until_complete(asyncio.sleep(0))

    def select(self, timeout: float | None) -> list[Any]:
        """What a selector does while nothing is ready: here, be at the next timer's time."""
        if timeout is None:
            raise NothingHappensError
        if timeout > 0:
            self._now = max(self._now, self._scheduled[0].when())
        return []

    def _process_events(self, _events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""
