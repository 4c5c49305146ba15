"""vLLM in its own processes, driven from this one's event loop.

Tokens come by one of two paths: `vllm_direct`, one pass for each engine step, where the installed
vLLM has the internals that takes (`vllm_shape`); else `vllm_public`, vLLM's documented interface.

What is relied on besides: `AsyncLLM(vllm_config=…, executor_class=…)` may be constructed in a
thread; `.engine_core.resources` knows the processes and tasks, `.renderer` the tokenizer; a stat
logger is called after each step of the public path; the CPU platform honours the `uni` executor
only with VLLM_ENABLE_V1_MULTIPROCESSING=0. Checked with vLLM 0.32 and its source.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from engine import vllm_environment as environment
from engine.base import (
    ChatMessage,
    EngineDeadError,
    EngineError,
    EngineGenerateError,
    EngineInfo,
    EngineStartError,
    EngineStats,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    Sink,
    StartPhase,
    Submission,
)
from engine.checks import check_sampling, completion_room
from engine.config import EngineConfig
from engine.meter import Meter

if TYPE_CHECKING:
    from engine.vllm_render import PromptRenderer
    from engine.vllm_stats import StepStats

logger = logging.getLogger(__name__)

# How long vLLM's processes may take to end before they are killed. On a CPU they hold nothing that
# would outlive them, and Python alone takes seconds to take them down.
SHUTDOWN_S = {"cpu": 2.0}
DEFAULT_SHUTDOWN_S = 10.0

Report = Callable[[StartPhase | str], None]


async def start(
    config: EngineConfig, model_path: str, *, report: Report | None = None
) -> VLLMEngine:
    """Load the model in `model_path` and warm it up.

    `report` is told the name of each phase as it begins and its time as it ends. Raises
    EngineStartError. When cancelled, or when it fails, no process stays behind.
    """
    tell = report or (lambda _phase: None)
    phases: list[StartPhase] = []

    def ended(name: str, begun: float) -> None:
        phases.append(StartPhase(name, time.perf_counter() - begun))
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
    llm, renderer = await launch(config, model_path, steps.factory)
    engine = VLLMEngine(config, llm, renderer, meter, steps)
    ended("load", begun)
    try:
        await engine.open()
        if config.warmup:
            phases += await engine.warm_up(tell)
    except EngineError as error:
        await engine.close()
        raise EngineStartError(f"{config.model}: the warm-up failed: {error}") from error
    except BaseException:
        await engine.close()
        raise
    engine.start_phases = tuple(phases)
    # Loading leaves a million objects that stay: scanning them would stall streams for long.
    gc.collect()
    gc.freeze()
    return engine


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


class TokenPath(Protocol):
    """How requests get into vLLM and their tokens out."""

    def submit(self, request: GenerateRequest, room: int, sink: Sink) -> Submission:
        """As `Engine.submit`; at most `room` tokens. Raises vLLM's exceptions."""
        ...

    async def close(self) -> None:
        """Fail what is unfinished and take nothing from vLLM any more."""
        ...


class VLLMEngine:
    """Implements `engine.base.Engine`; made by `start`."""

    def __init__(
        self,
        config: EngineConfig,
        llm: Any,
        renderer: PromptRenderer,
        meter: Meter,
        steps: StepStats,
    ) -> None:
        from vllm.v1.engine import exceptions

        self.start_phases: Sequence[StartPhase] = ()
        self._llm = llm
        self._meter = meter
        self._steps = steps
        self._dead_error: type[Exception] = exceptions.EngineDeadError
        self._renderer = renderer
        self._path: TokenPath | None = None
        self._wants_direct = config.vllm_interface == "auto"
        self._info = _describe(config, llm)
        self._capacity = self._info.max_num_seqs * config.parallel.data
        self._closing: asyncio.Task[None] | None = None

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def render(self, source: Sequence[ChatMessage] | str | Sequence[int]) -> Prompt:
        return await self._renderer.render(source)

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return await self._renderer.tokenize(text, add_special_tokens=add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._renderer.detokenize(token_ids)

    async def open(self) -> None:
        """Choose the token path. Once, before any request."""
        from engine.vllm_public import PublicPath

        self._path = await self._direct_path()
        if self._path is None:
            self._path = PublicPath(self._llm, self._meter, self._known)

    def submit(self, request: GenerateRequest, sink: Sink) -> Submission:
        self._raise_if_dead()
        if self._path is None:
            raise EngineDeadError("The engine has not been opened.")
        check_sampling(request.sampling, self._info.vocab_size)
        prompt_tokens = len(request.prompt.token_ids)
        room = completion_room(prompt_tokens, request.sampling.max_tokens, self._info.max_model_len)
        try:
            return self._path.submit(request, room, sink)
        except Exception as error:
            raise self._known(error) from error

    def stats(self) -> EngineStats:
        # The scheduler tells its figures only when a step ends. What has been sent but isn't
        # reported as waiting is running, or will be with the next step.
        live = self._meter.live
        running = min(max(live - self._steps.waiting, 0), self._capacity)
        return EngineStats(
            running=running,
            waiting=live - running,
            kv_cache_usage=self._steps.kv_cache_usage,
            prompt_tokens_total=self._meter.prompt_tokens,
            generation_tokens_total=self._meter.generation_tokens,
            tokens_per_second=self._meter.tokens_per_second,
            seconds_since_step=self._meter.seconds_since_step,
        )

    async def check_health(self) -> None:
        self._raise_if_dead()

    def _raise_if_dead(self) -> None:
        if self._closing is not None or self._llm.errored:
            raise EngineDeadError("The engine has stopped and has to be started again.")

    async def drain(self) -> None:
        await self._meter.idle()

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def warm_up(self, report: Report) -> list[StartPhase]:
        """Run every size once, then forget it was done."""
        from engine.vllm_warmup import warm_up

        step_tokens = self._llm.vllm_config.scheduler_config.max_num_batched_tokens
        phases = await warm_up(self, step_tokens=step_tokens, report=report)
        await self._llm.reset_prefix_cache()
        self._meter.reset()
        return phases

    async def _direct_path(self) -> TokenPath | None:
        if not self._wants_direct:
            return None
        from engine.vllm_shape import mismatch

        reason = mismatch(self._llm)
        if reason is None:
            from engine.vllm_direct import open_path

            return await open_path(self._llm, self._meter, self._steps)
        logger.warning("tokens take vLLM's public path, which costs more: %s", reason)
        return None

    def _known(self, error: Exception) -> EngineError:
        """vLLM's exceptions as ours."""
        from vllm.exceptions import VLLMClientError

        if isinstance(error, EngineError):
            return error
        if isinstance(error, self._dead_error) or self._closing is not None or self._llm.errored:
            return EngineDeadError("The engine stopped while this request was running.")
        if isinstance(error, VLLMClientError):
            return InvalidPromptError(error.args[0], getattr(error, "parameter", None))
        cause = error.__cause__ or error
        return EngineGenerateError(f"The engine failed: {cause!r}")

    async def _close(self) -> None:
        from engine.vllm_processes import end, family

        resources = self._llm.engine_core.resources
        owned = getattr(resources.engine_manager, "processes", ())
        processes = family(owned)
        if self._path is not None:
            await self._path.close()
        # vLLM asks its processes to end, waits, and kills them.
        grace = SHUTDOWN_S.get(self._info.device, DEFAULT_SHUTDOWN_S)
        shutdown = asyncio.create_task(asyncio.to_thread(self._llm.shutdown, grace))
        await asyncio.wait([shutdown], timeout=grace + 5.0)
        await asyncio.to_thread(end, owned, processes)
        await asyncio.wait([shutdown])
        await _cancelled(resources.output_queue_task)
        resources.ctx.destroy(linger=0)
        self._renderer.close()


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


def _describe(config: EngineConfig, llm: Any) -> EngineInfo:
    import vllm
    from vllm.platforms import current_platform

    settings, model = llm.vllm_config, llm.model_config
    cache = settings.cache_config
    return EngineInfo(
        model=config.model,
        engine="vllm",
        version=vllm.__version__,
        architecture=model.architecture,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=model.quantization,
        device=current_platform.get_device_name(),
        max_model_len=model.max_model_len,
        vocab_size=model.get_vocab_size(),
        max_num_seqs=settings.scheduler_config.max_num_seqs,
        kv_cache_tokens=(cache.num_gpu_blocks * cache.block_size if cache.num_gpu_blocks else None),
    )
