"""What this machine's CPU reaches, measured on the spot.

The measurement runs in a process of its own, in an engine's environment (`vllm_environment`): the
same threads, the same settings of vLLM.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from engine.config import EngineConfig
from engine.models import CheckpointFacts
from engine.planning.errors import PlanError
from engine.planning.roofline import Load
from engine.planning.shapes import Reached, Shapes, shapes_of
from engine.vllm_environment import available_cores, engine_processes, threads_adapt

STEP_TOKENS: Final = 1024
"""Tokens of the largest step, as `configs/default.yaml` has it."""

TIMEOUT_S: Final = 180
GIGA: Final = 1e9


@dataclass(frozen=True, slots=True)
class Machine:
    """A CPU and what it reaches with each number format, for the model and load it was measured
    with (`shapes`). `memory_gib` is what is free."""

    memory_gib: float
    threads: int
    shapes: Shapes
    reached: Mapping[str, Reached]


def measure(
    facts: CheckpointFacts,
    load: Load,
    *,
    bandwidth_gb: float | None = None,
    gflops: float | None = None,
) -> Machine:
    """Measure this machine with the model's layers at the load's sizes; takes some seconds.

    `bandwidth_gb` and `gflops` take the place of what is measured. Raises PlanError: no vLLM for
    CPUs is installed, or the measurement failed.
    """
    shapes = shapes_of(facts, load)
    reached = _measured(json.dumps(asdict(shapes)))
    if bandwidth_gb is not None:
        reached = {n: replace(r, bandwidth=bandwidth_gb * GIGA) for n, r in reached.items()}
    if gflops is not None:
        rate = gflops * GIGA
        reached = {n: replace(r, matmul=rate, prefill=rate) for n, r in reached.items()}
    free = psutil.virtual_memory().available / 1024**3
    return Machine(free, available_cores(), shapes, reached)


def _measured(shapes: str) -> dict[str, Reached]:
    command = [sys.executable, "-m", "engine.vllm_microbenchmark", shapes]
    with (
        TemporaryDirectory(prefix="plan-") as directory,
        engine_processes(
            EngineConfig(),
            directory,
            cpu=True,
            in_process=True,
            adapts=threads_adapt(EngineConfig()),
        ),
    ):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise PlanError(f"measuring this machine took longer than {TIMEOUT_S} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PlanError(
            f"this machine can't be measured: {last}. It takes the vLLM for CPUs (requirements/"
            "cpu.lock); for a GPU, name it with --gpu"
        )
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return {number: Reached(**each) for number, each in figures.items()}
