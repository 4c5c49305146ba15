"""vLLM's executors, which also end when the program that started the engine is gone.

vLLM's engine process outlives a parent that was killed, with all the memory it holds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor


class InProcessExecutor(UniProcExecutor):  # type: ignore[misc]
    """Runs the model in the engine's own process."""

    def _init_executor(self) -> None:
        _end_with_the_parent()
        super()._init_executor()


class ProcessesExecutor(MultiprocExecutor):  # type: ignore[misc]
    """One process for each device; they end when the engine's process does."""

    def _init_executor(self) -> None:
        _end_with_the_parent()
        super()._init_executor()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
