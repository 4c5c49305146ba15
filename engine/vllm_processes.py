"""The engine's processes and their descendants: found, watched, and ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

import psutil

from engine.base import Activity

REAP_S = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes started in this block, in this thread, ignore a terminal's Ctrl-C: it goes to all
    of them, and what it means is for the program to decide, which may want to drain first."""
    # Starting multiprocessing's tracker unblocks SIGINT in the thread that does it: so not here.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class EngineProcesses:
    """What multiprocessing has started for one engine that is loaded, and everything below it."""

    def __init__(self, started: Sequence[BaseProcess]) -> None:
        self._started = list(started)
        # Found now: once its parent was killed, nobody can tell what a process belonged to.
        self._family = family(started)
        self._descriptors: list[int] = []

    def activity(self) -> Activity | None:
        """As `LoadedModel.activity`."""
        if not self._family:
            return None
        cpu_s, stopped = 0.0, False
        for process in self._family:
            with contextlib.suppress(OSError):  # it has ended
                used, state = _cpu_and_state(process.pid)
                cpu_s += used
                stopped = stopped or state == "T"
        return Activity(cpu_s, stopped, tuple(process.pid for process in self._family))

    def watch(self, died: Callable[[], None]) -> None:
        """Call `died` in this event loop as soon as one that was started has ended."""
        loop = asyncio.get_running_loop()
        for process in self._started:
            # Not multiprocessing's sentinel: a forked grandchild would keep that open. Where there
            # are no such descriptors, vLLM's own watch has to do.
            with contextlib.suppress(OSError, AttributeError):
                descriptor = os.pidfd_open(process.pid or 0)
                self._descriptors.append(descriptor)
                loop.add_reader(descriptor, self._seen, died)

    def unwatch(self) -> None:
        """Call nobody any more. Idempotent."""
        loop = asyncio.get_running_loop()
        for descriptor in self._descriptors:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        self._descriptors.clear()

    def end(self) -> None:
        """As `end`."""
        known = {process.pid for process in self._family}
        end(
            self._started,
            self._family + [new for new in family(self._started) if new.pid not in known],
        )

    def _seen(self, died: Callable[[], None]) -> None:
        self.unwatch()
        died()


def family(children: Sequence[BaseProcess]) -> list[psutil.Process]:
    """The living among `children` and everything below them."""
    found: list[psutil.Process] = []
    for child in children:
        if child.pid is None:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(child.pid)
            found += [*process.children(recursive=True), process]
    return found


def end(children: Sequence[BaseProcess], family: Sequence[psutil.Process]) -> None:
    """Kill what still lives of `children` and of the `family` found below them before, and wait
    until it is gone. Blocks for seconds at most."""
    trackers = [process for process in family if _is_tracker(process)]
    for process in family:
        if process not in trackers:
            _kill(process)
    # multiprocessing has to reap its own: it takes a child that psutil has reaped for alive.
    for child in children:
        child.join(REAP_S)
    # With those it worked for, a tracker removes what they left in shared memory, and ends.
    _wait(family)
    for process in trackers:
        _kill(process)


async def within(seconds: float, function: Callable[[], object]) -> None:
    """Wait so long at most for `function`, which blocks, in a thread that keeps nobody from ending.
    What it raises is dropped."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        with contextlib.suppress(Exception):
            function()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(over.set)

    threading.Thread(target=run, daemon=True, name="engine end").start()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)


def _cpu_and_state(pid: int) -> tuple[float, str]:
    """CPU time in seconds, of all its threads, and the state's letter; see proc_pid_stat(5). As
    psutil tells it, in a tenth of the time."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The second field is a name, which may hold anything.
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS, fields[0].decode()


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()


def _wait(family: Sequence[psutil.Process]) -> None:
    deadline = time.monotonic() + REAP_S
    while any(_lives(process) for process in family) and time.monotonic() < deadline:
        time.sleep(0.02)


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
