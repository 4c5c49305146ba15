"""vLLM's executors, which also end when the program that started the engine is gone.

On a CPU they share its cores with whatever else runs there.

vLLM's engine process outlives a parent that was killed, with all the memory it holds. And where it
is killed itself, its semaphores and shared memory would stay until the program ends: only the
resource tracker that multiprocessing starts with the program removes them, and waits for it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

import torch
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from engine.cpu_threads import SharedCpu

# vLLM replaces it by one that does nothing.
_set_threads = torch.set_num_threads


class InProcessExecutor(UniProcExecutor):  # type: ignore[misc]
    """Runs the model in the engine's own process."""

    def _init_executor(self) -> None:
        _leave_nothing()
        _end_with_the_parent()
        super()._init_executor()


class SharedCpuExecutor(InProcessExecutor):
    """The same, with as many of its threads as find a core."""

    def _init_executor(self) -> None:
        super()._init_executor()
        self._cpu = SharedCpu(torch.get_num_threads(), _set_threads)

    def execute_model(self, scheduler_output: Any, *args: Any, **options: Any) -> Any:
        sequences = len(scheduler_output.num_scheduled_tokens)
        self._cpu.step(scheduler_output.total_num_scheduled_tokens, sequences)
        return super().execute_model(scheduler_output, *args, **options)


class ProcessesExecutor(MultiprocExecutor):  # type: ignore[misc]
    """One process for each device; they end when the engine's process does."""

    def _init_executor(self) -> None:
        _leave_nothing()
        _end_with_the_parent()
        super()._init_executor()


def _leave_nothing() -> None:
    """Let this process and those it starts have a tracker of their own: it outlives them, removes
    what they left, and ends."""
    if multiprocessing.parent_process() is not None:
        tracker: Any = resource_tracker._resource_tracker
        tracker._fd = None  # the next thing to be tracked starts one


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
