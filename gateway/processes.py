"""What the processes of the gateway and of its engines use."""

from __future__ import annotations

import contextlib
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

    def add(self, process: psutil.Process) -> None:
        """Nothing of a process that has ended."""
        with contextlib.suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            resident, open_files = process.memory_info().rss, process.num_fds()
            self.cpu_s += times.user + times.system
            self.resident += resident
            self.open_files += open_files
            self.processes += 1


def uses_by_role(engines: Mapping[str, Collection[int]]) -> dict[str, Use]:
    """What this process and all below it use: `gateway`, and `engine:MODEL` for those of `engines`
    and below them. Reads files of every process of the machine: not for the event loop."""
    roles = {pid: f"engine:{model}" for model, pids in engines.items() for pid in pids}
    own = psutil.Process()
    found = {GATEWAY: Use()}
    found[GATEWAY].add(own)
    parents: dict[int, int] = {}
    below = own.children(recursive=True)
    for process in below:
        with contextlib.suppress(psutil.Error):
            parents[process.pid] = process.ppid()
    for process in below:
        found.setdefault(_role(process.pid, parents, roles), Use()).add(process)
    return found


def _role(pid: int, parents: Mapping[int, int], roles: Mapping[int, str]) -> str:
    """That of the process, or of the nearest above it that has one."""
    while pid in parents and pid not in roles:
        pid = parents[pid]
    return roles.get(pid, GATEWAY)
