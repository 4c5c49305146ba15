"""From a configuration to a model that is loaded and warm, or to an EngineStartError.

What is relied on: `AsyncLLM(vllm_config=…, executor_class=…)` may be constructed in a thread; the
CPU platform honours the `uni` executor only with VLLM_ENABLE_V1_MULTIPROCESSING=0. Checked with
vLLM 0.32 and its source.
"""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

from engine import vllm_environment as environment
from engine.base import EngineError, EngineStartError, StartPhase
from engine.config import EngineConfig
from engine.meter import Meter

Report = Callable[[StartPhase | str], None]


class Startable(Protocol):
    """A model that is in memory, but still to be opened."""

    start_phases: Sequence[StartPhase]
    files: TemporaryDirectory[str] | None

    async def open(self) -> None:
        """Get ready for requests. Once."""
        ...

    async def warm_up(self, report: Report) -> list[StartPhase]:
        """Run every size once, then forget it was done."""
        ...

    async def close(self) -> None: ...


Started = TypeVar("Started", bound=Startable)


async def start(
    make: Callable[..., Started],
    config: EngineConfig,
    model_path: str,
    *,
    report: Report | None = None,
    name: str | None = None,
) -> Started:
    """Load the model in `model_path` and warm it up. One at a time: vLLM measures free memory.

    `make` is given the configuration, the `AsyncLLM`, its renderer, meter and figures. `report` is
    told the name of each phase as it begins and its time as it ends; `name` labels the model's
    series. Raises EngineStartError. When cancelled, or when it fails, no process stays behind.
    """
    tell = report or (lambda _phase: None)
    phases: list[StartPhase] = []

    def ended(phase: str, begun: float) -> None:
        phases.append(StartPhase(phase, time.perf_counter() - begun))
        tell(phases[-1])

    tell("import")
    begun = time.perf_counter()
    environment.prepare_import()
    await asyncio.to_thread(import_vllm)
    ended("import", begun)

    from engine.vllm_launch import launch
    from engine.vllm_stats import StepStats

    tell("load")
    begun = time.perf_counter()
    meter = Meter()
    steps = StepStats(meter)
    llm, renderer, files = await launch(config, model_path, steps.factory, name)
    model = make(config, llm, renderer, meter, steps)
    model.files = files
    ended("load", begun)
    try:
        await model.open()
        steps.keep_series()
        if config.warmup:
            phases += await model.warm_up(tell)
    except EngineError as error:
        await model.close()
        raise EngineStartError(f"{config.model}: the warm-up failed: {error}") from error
    except BaseException:
        await model.close()
        raise
    model.start_phases = tuple(phases)
    # Loading leaves a million objects that stay: scanning them would stall streams for long. But
    # once, for what an engine that has died left among them.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    return model


def import_vllm() -> None:
    """Import vLLM and what is built on it. Takes seconds. Raises EngineStartError."""
    try:
        with warnings.catch_warnings():
            # vLLM, torch and transformers deprecate one another; not ours to change.
            warnings.simplefilter("ignore")
            import engine.vllm_launch
            import engine.vllm_public
            import engine.vllm_render
            import engine.vllm_stats  # noqa: F401
    except ImportError as error:
        raise EngineStartError(
            f"vLLM can't be imported ({error}); install the locked requirements"
        ) from error
