"""What is the same for every model vLLM holds, whether it generates or embeds.

What is relied on: `AsyncLLM.engine_core.resources` knows the processes and tasks, `.renderer` the
tokenizer. Checked with vLLM 0.32 and its source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from engine.base import (
    Activity,
    EngineDeadError,
    EngineError,
    EngineGenerateError,
    EngineInfo,
    EngineStats,
    InvalidPromptError,
    StartPhase,
)
from engine.config import EngineConfig
from engine.meter import Meter

if TYPE_CHECKING:
    from engine.vllm_processes import EngineProcesses
    from engine.vllm_render import PromptRenderer
    from engine.vllm_stats import StepStats

# How long vLLM's processes may take to end before they are killed. On a CPU they hold nothing that
# would outlive them, and Python alone takes seconds to take them down.
SHUTDOWN_S = {"cpu": 2.0}
DEFAULT_SHUTDOWN_S = 10.0
# For each further step of closing, which takes none of it unless something hangs.
MARGIN_S = 5.0
_SOCKETS = (
    "input_socket",
    "output_socket",
    "first_req_send_socket",
    "first_req_rcv_socket",
    "stats_update_socket",
)


class VLLMModel:
    """Implements `engine.base.LoadedModel`; the base of what `vllm_engine.start` makes."""

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
        # What the engine's processes have put down; theirs alone.
        self.files: TemporaryDirectory[str] | None = None
        self._llm = llm
        self._meter = meter
        self._steps = steps
        self._dead_error: type[Exception] = exceptions.EngineDeadError
        self._renderer = renderer
        self._info = _describe(config, llm)
        self._capacity = (self._info.max_num_seqs + self._info.spare_seqs) * self._info.copies
        self._processes: EngineProcesses | None = None
        self._dead = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return await self._renderer.tokenize(text, add_special_tokens=add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._renderer.detokenize(token_ids)

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

    def activity(self) -> Activity | None:
        return None if self._processes is None else self._processes.activity()

    @property
    def alive(self) -> bool:
        return self._closing is None and not self._llm.errored

    async def died(self) -> None:
        await self._dead.wait()

    async def check_health(self) -> None:
        self._raise_if_dead()

    async def drain(self) -> None:
        await self._meter.idle()

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    def _raise_if_dead(self) -> None:
        if not self.alive:
            raise EngineDeadError("The engine has stopped and has to be started again.")

    def _known(self, error: Exception) -> EngineError:
        """vLLM's exceptions as ours."""
        from vllm.exceptions import VLLMClientError

        if isinstance(error, EngineError):
            return error
        if isinstance(error, self._dead_error) or not self.alive:
            return EngineDeadError("The engine stopped while this request was running.")
        if isinstance(error, VLLMClientError):
            return InvalidPromptError(error.args[0], getattr(error, "parameter", None))
        cause = error.__cause__ or error
        return EngineGenerateError(f"The engine failed: {cause!r}")

    def _watch(self) -> None:
        """From now on the end of an engine's process is noticed at once. vLLM would first wait for
        the other processes."""
        from engine.vllm_processes import EngineProcesses

        resources = self._llm.engine_core.resources
        self._processes = EngineProcesses(getattr(resources.engine_manager, "processes", ()))
        self._processes.watch(self._lost)
        if resources.output_queue_task is not None:  # ends where the engine says it has failed
            resources.output_queue_task.add_done_callback(lambda _task: self._lost())

    def _lost(self) -> None:
        if self._closing is not None or self._dead.is_set():
            return
        core = self._llm.engine_core
        core.resources.engine_dead = True
        for waiting in core.utility_results.values():
            if not waiting.done():
                waiting.set_exception(self._dead_error())
        self._fail_all()
        self._dead.set()

    def _fail_all(self) -> None:
        """The engine is gone: fail what is unfinished, at once."""
        self._llm.output_processor.propagate_error(self._dead_error())

    async def _stop(self) -> None:
        """Fail what is unfinished and take nothing from vLLM any more."""

    async def _close(self) -> None:
        from engine.vllm_processes import REAP_S, EngineProcesses, within

        resources = self._llm.engine_core.resources
        owned = getattr(resources.engine_manager, "processes", ())
        processes = self._processes or EngineProcesses(owned)
        processes.unwatch()
        await self._stop()
        # vLLM asks its processes to end, waits, and kills them.
        grace = SHUTDOWN_S.get(self._info.device, DEFAULT_SHUTDOWN_S)
        await within(grace + MARGIN_S, partial(self._llm.shutdown, grace))
        await within(2 * REAP_S + MARGIN_S, processes.end)
        await _cancelled(resources.output_queue_task)
        # vLLM does so in another thread, perhaps later; the context would wait for it for ever.
        for name in _SOCKETS:
            if (socket := getattr(resources, name, None)) is not None:
                socket.close(linger=0)
        await within(MARGIN_S, partial(resources.ctx.destroy, linger=0))
        if self.files is not None:
            self.files.cleanup()
        self._steps.close()
        self._dead.set()


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task], timeout=MARGIN_S)


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
        max_num_seqs=settings.scheduler_config.max_num_seqs - config.spare,
        kv_cache_tokens=(cache.num_gpu_blocks * cache.block_size if cache.num_gpu_blocks else None),
        copies=config.parallel.data,
        spare_seqs=config.spare,
    )
