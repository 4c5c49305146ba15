"""The engine's processes and their descendants: found, and ended for certain."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

import psutil

REAP_S = 5.0


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
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # multiprocessing has to reap its own: it takes a child that psutil has reaped for alive.
    for child in children:
        child.join(REAP_S)
    deadline = time.monotonic() + REAP_S
    while any(_lives(process) for process in family) and time.monotonic() < deadline:
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
