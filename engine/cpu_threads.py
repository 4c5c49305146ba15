"""With how many threads an engine computes on a CPU that others use as well.

The threads of an operation wait for each other: one that finds no core, as another program has it,
holds up all of them, and there are hundreds of operations in a step. Fewer threads are faster then,
as long as that lasts. The kernel keeps the books this goes by: for how long each thread was ready
to run and didn't (`/proc/PID/task/TID/schedstat`), and for how long each core did nothing
(`/proc/stat`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# What was seen is judged every so often, while steps follow each other without a pause like that.
_WINDOW_S: Final = 0.5
_PAUSE_S: Final = 0.05
# After so long what was seen says nothing any more: an engine that had pauses since begins anew.
_FRESH_S: Final = 2.0
# Cores that were missing, on average, from which a thread less is faster. Measured on two cores:
# a neighbour that takes a fifth of one costs 0.2 and two threads are still faster; half of one
# costs 0.4, and they are as fast as one; a whole one 0.75, and they take twice as long.
_MISSING: Final = 0.35
# A core is there for another thread that has done nothing for so much of the time.
_IDLE: Final = 0.75
# A thread that was taken back at once is tried again later each time.
_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Books:
    """The kernel's, at one moment; all in seconds.

    `waited` is, by thread, how long it was ready to run without a core; `idle` how long the cores
    that this process may use did nothing, all together; both since they began.
    """

    at: float
    waited: Mapping[str, float]
    idle: float


def read_books() -> Books:
    """Of this process, now. Raises OSError, ValueError or IndexError where there are none, as
    outside of Linux, or none like those."""
    waited: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            waited[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
    return Books(time.monotonic(), waited, _idle(Path("/proc/stat").read_text()))


def _idle(stat: str) -> float:
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in stat.splitlines() if line.split()[0] in allowed]
    # Fields of proc_stat(5): user, nice, system, idle, iowait.
    return sum(int(row[4]) + int(row[5]) for row in rows) / os.sysconf("SC_CLK_TCK")


class SharedCpu:
    """How many threads find a core: at most `most`, at least one.

    `apply` sets their number; `books` and `now`, in seconds, are the kernel's unless a test has its
    own. Neither raises nor changes anything where the kernel keeps no books.
    """

    def __init__(
        self,
        most: int,
        apply: Callable[[int], None],
        books: Callable[[], Books] = read_books,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = self._threads = most
        self._apply = apply
        self._books = books
        self._now = now
        self._since: Books | None = None
        self._ended = self._judged_at = float("-inf")
        self._trying = False
        self._retry_s = _RETRY_S
        self._retry_at = float("-inf")

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around each step of the engine; the number of threads changes before it."""
        with suppress(OSError, ValueError, IndexError):
            self._look()
        try:
            yield
        finally:
            self._ended = self._now()

    def _look(self) -> None:
        now = self._now()
        if self._since is None or now - self._ended > _PAUSE_S:
            self._since = self._books()
            if now - self._judged_at > _FRESH_S and self._threads < self._most:
                self._set(self._most)
        elif now - self._since.at >= _WINDOW_S:
            before, self._since = self._since, self._books()
            self._judge(before, self._since)

    def _judge(self, before: Books, after: Books) -> None:
        self._judged_at = after.at
        took = after.at - before.at
        waited = sum(s - before.waited.get(task, 0.0) for task, s in after.waited.items())
        missing, idle = waited / took, (after.idle - before.idle) / took
        tried, self._trying = self._trying, False
        if missing > _MISSING and self._threads > 1:
            self._retry_s = min(2 * self._retry_s, _MAX_RETRY_S) if tried else _RETRY_S
            self._retry_at = after.at + self._retry_s
            self._set(max(1, self._threads - max(1, round(missing))))
        elif idle >= _IDLE and self._threads < self._most and after.at >= self._retry_at:
            self._trying = True
            self._set(min(self._most, self._threads + int(idle + 1 - _IDLE)))

    def _set(self, threads: int) -> None:
        self._threads = threads
        self._apply(threads)
