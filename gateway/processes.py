"""What the processes of the gateway and of its engines use."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import psutil

GATEWAY: Final = "gateway"


@dataclass(slots=True)
class Use:
    """What some processes use together. Memory is what each has resident: what they share counts
    for each of them."""

    cpu_s: float = 0.0
    resident: int = 0
    open_files: int = 0
    processes: int = 0

    def add(self, process: psutil.Process) -> float | None:
        """Its CPU time; None, and nothing added, where it has ended."""
        with contextlib.suppress(psutil.Error, OSError), process.oneshot():
            times = process.cpu_times()
            resident, open_files = process.memory_info().rss, process.num_fds()
            self.resident += resident
            self.open_files += open_files
            self.processes += 1
            return float(times.user + times.system)
        return None


class CpuTimes:
    """CPU seconds by role that never fall: those of processes that have ended stay."""

    def __init__(self) -> None:
        self._ended: defaultdict[str, float] = defaultdict(float)
        self._living: dict[tuple[str, psutil.Process], float] = {}

    def of(self, living: dict[tuple[str, psutil.Process], float]) -> Mapping[str, float]:
        """With what each process has used until now; a process is one by its id and its start."""
        for key in self._living.keys() - living.keys():
            self._ended[key[0]] += self._living[key]
        self._living = living
        sums = self._ended.copy()
        for (role, _), used in living.items():
            sums[role] += used
        return sums


def uses_by_role(engines: Mapping[str, Collection[int]], times: CpuTimes) -> dict[str, Use]:
    """What this process and all below it use: `gateway`, and `engine:MODEL` for those of `engines`
    and below them. Reads files of every process of the machine: not for the event loop."""
    roles = {pid: f"engine:{model}" for model, pids in engines.items() for pid in pids}
    own = psutil.Process()
    found = {GATEWAY: Use()}
    living: dict[tuple[str, psutil.Process], float] = {}

    def add(role: str, process: psutil.Process) -> None:
        used = found.setdefault(role, Use()).add(process)
        if used is not None:
            living[role, process] = used

    add(GATEWAY, own)
    parents: dict[int, int] = {}
    below = own.children(recursive=True)
    for process in below:
        with contextlib.suppress(psutil.Error):
            parents[process.pid] = process.ppid()
    for process in below:
        add(_role(process.pid, parents, roles), process)
    sums = times.of(living)
    for role, use in found.items():
        use.cpu_s = sums.get(role, 0.0)
    return found


def _role(pid: int, parents: Mapping[int, int], roles: Mapping[int, str]) -> str:
    """That of the process, or of the nearest above it that has one."""
    while pid in parents and pid not in roles:
        pid = parents[pid]
    return roles.get(pid, GATEWAY)
