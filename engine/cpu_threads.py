"""With how many threads an engine computes on a CPU that others use as well.

The threads of an operation wait for each other: one that finds no core, as another program has it,
holds up all of them, and there are hundreds of operations in a step. Fewer threads are faster then,
as long as that lasts. The cores that others leave are those that do nothing and those that the
engine itself keeps busy; both are known at any time, whether it computes, waits, or has a pause.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WINDOW_S: Final = 0.5
# Measured on two cores: a neighbour that takes a third of one leaves two threads as fast as one, or
# faster; half of one leaves them as fast at best; a whole one, and they take twice as long.
_LEAST: Final = 0.65
# So that noise doesn't change it twice a second, one more has to find more than that.
_LEAST_FOR_MORE: Final = 0.75
# vLLM 0.32 keeps so many matrix products of each weight, by the number of rows.
_KEPT: Final = 32


@dataclass(frozen=True, slots=True)
class Books:
    """At one moment, in seconds: for how long the cores this process may use have done nothing, all
    together, and for how long its threads have run."""

    at: float
    idle: float
    used: float


def read_books() -> Books:
    """The kernel's, now. Raises OSError or ValueError where it keeps none, as outside of Linux."""
    idle = _idle(Path("/proc/stat").read_text())
    if not idle:
        raise ValueError("/proc/stat doesn't tell of the cores that this process may use")
    return Books(time.monotonic(), idle, time.process_time())


def _idle(stat: str) -> float:
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [row for row in map(str.split, stat.splitlines()) if row and row[0] in allowed]
    # Fields of proc_stat(5): user, nice, system, idle, iowait.
    return sum(int(field) for row in rows for field in row[4:6]) / os.sysconf("SC_CLK_TCK")


class SharedCpu:
    """How many threads find a core: at most `most`, at least one.

    `apply` sets their number; `books` and `clock` are the kernel's unless a test has its own. Where
    there are none all threads stay.

    What computes a matrix product (oneDNN) is made when a number of rows is new, and never uses
    more threads than there were then. So a step with such a number has all of them. Most have a
    prompt in them, and long operations: those lose little.
    """

    def __init__(
        self,
        most: int,
        apply: Callable[[int], None],
        books: Callable[[], Books] = read_books,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = self._threads = self._applied = most
        self._apply = apply
        self._books = books
        self._clock = clock
        self._since: Books | None = None
        # Rows of the layers' products, and of the one that makes the logits.
        self._rows = _Recent()
        self._logits = _Recent()

    def step(self, tokens: int, sequences: int) -> None:
        """Before each step of the engine, of so many tokens of so many sequences."""
        with suppress(OSError, ValueError):
            self._look()
        new = [self._rows.is_new(tokens), self._logits.is_new(sequences)]
        threads = self._most if any(new) else self._threads
        if threads != self._applied:
            self._applied = threads
            self._apply(threads)

    def _look(self) -> None:
        before = self._since
        if before is not None and self._clock() - before.at < _WINDOW_S:
            return
        now = self._since = self._books()
        if before is not None:
            free = (now.idle - before.idle + now.used - before.used) / (now.at - before.at)
            self._judge(free)

    def _judge(self, free: float) -> None:
        if free < self._threads - 1 + _LEAST:
            self._threads = max(1, int(free + 1 - _LEAST))
        elif free >= self._threads + _LEAST_FOR_MORE:
            self._threads = min(self._most, int(free + 1 - _LEAST_FOR_MORE))


class _Recent:
    """The numbers that came last, as many as vLLM keeps."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[int, None] = OrderedDict()

    def is_new(self, number: int) -> bool:
        """Whether it isn't among them; from now on it is."""
        new = number not in self._numbers
        self._numbers[number] = None
        self._numbers.move_to_end(number)
        if len(self._numbers) > _KEPT:
            self._numbers.popitem(last=False)
        return new
