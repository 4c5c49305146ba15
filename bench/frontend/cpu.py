"""CPU time of a process that is not this one."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

from bench.errors import BenchError

# How Linux writes the CPU clock of a process, all its threads together (clock_getcpuclockid(3)).
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU seconds of a process itself, and of all the living ones it started together."""

    own: float
    children: float

    def since(self, before: CpuTimes) -> CpuTimes:
        """What was used since `before`."""
        return CpuTimes(self.own - before.own, self.children - before.children)


def cpu_times(pid: int) -> CpuTimes:
    """What /proc/PID/stat calls utime + stime, in nanoseconds where that counts 10 ms ticks.

    Raises BenchError: there is no such process.
    """
    children = 0.0
    try:
        own = _clock(pid)
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(OSError):  # it has ended
                children += _clock(child.pid)
    except (OSError, psutil.NoSuchProcess):
        raise BenchError(f"there is no process {pid} any more: did the server end?") from None
    return CpuTimes(own, children)


def _clock(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
