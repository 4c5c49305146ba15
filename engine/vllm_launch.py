"""From an EngineConfig to a running AsyncLLM, or to an EngineStartError that says why not."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import json
import logging
import multiprocessing
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
from vllm.config import StructuredOutputsConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.logger import DEFAULT_LOGGING_CONFIG, configure_logging
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from engine import vllm_environment as environment
from engine.base import EngineStartError
from engine.config import EngineConfig
from engine.vllm_executor import InProcessExecutor, ProcessesExecutor, SharedCpuExecutor
from engine.vllm_grammar import STRUCTURED_OUTPUTS
from engine.vllm_processes import end, family, interrupts_blocked
from engine.vllm_render import PromptRenderer

logger = logging.getLogger(__name__)

GIB = 1024**3
CPU_KV_CACHE_GIB = 1.0

StatLogger = Callable[[Any, int], Any]
Launched = tuple[AsyncLLM, PromptRenderer, tempfile.TemporaryDirectory[str]]


async def launch(
    config: EngineConfig, model_path: str, stat_logger: StatLogger, name: str | None = None
) -> Launched:
    """Load the model in the engine's processes, and its tokenizer. Raises EngineStartError.

    `name` labels vLLM's series. The directory has the processes' files, for as long as they run.

    Takes place in a thread, as vLLM waits for its processes there; when cancelled, the processes
    are killed and nothing stays.
    """
    before = set(multiprocessing.active_children())
    loading = asyncio.create_task(asyncio.to_thread(_load, config, model_path, stat_logger, name))
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        # A thread can't be cancelled, but without its processes vLLM gives up.
        while not loading.done():
            begun = [p for p in multiprocessing.active_children() if p not in before]
            await asyncio.to_thread(end, begun, family(begun))
            await asyncio.wait([loading], timeout=0.1)
        if loading.exception() is None:
            llm, _, files = loading.result()
            await asyncio.to_thread(llm.shutdown, 0)
            files.cleanup()
        raise


def engine_args(config: EngineConfig, model_path: str, name: str | None = None) -> AsyncEngineArgs:
    """Every setting of `config` under vLLM's name for it. `name` labels vLLM's series."""
    cpu = current_platform.is_cpu()
    optional = {
        "quantization": config.quantization,
        "max_model_len": config.max_model_len,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "block_size": config.block_size,
        "kv_cache_memory_bytes": _kv_cache_bytes(config, cpu=cpu),
        "distributed_executor_backend": _executor(config),
        "hf_overrides": None if config.matryoshka is None else _matryoshka(config.matryoshka),
    }
    return AsyncEngineArgs(
        model=model_path,
        runner=config.runner,
        served_model_name=[name or config.model],
        dtype=config.dtype,
        kv_cache_dtype=config.kv_cache_dtype,
        load_format=config.load_format,
        tokenizer_mode=config.tokenizer_mode,
        max_num_seqs=config.seats,
        # Equal priorities are still served as they come.
        scheduling_policy="priority",
        enable_prefix_caching=_where_possible(config, config.enable_prefix_caching),
        enable_chunked_prefill=_where_possible(config, config.enable_chunked_prefill),
        gpu_memory_utilization=config.gpu_memory_utilization,
        enforce_eager=_eager(config, cpu=cpu),
        tensor_parallel_size=config.parallel.tensor,
        pipeline_parallel_size=config.parallel.pipeline,
        data_parallel_size=config.parallel.data,
        # Requests say how to sample; a checkpoint's own defaults would change what OpenAI's mean.
        # Its extra end-of-sequence tokens still count.
        generation_config="vllm",
        worker_extension_cls="engine.vllm_worker.WorkerExtension",
        structured_outputs_config=StructuredOutputsConfig(**STRUCTURED_OUTPUTS),
        use_tqdm_on_load=False,
        **_lora(config),
        **{key: value for key, value in optional.items() if value is not None},
    )


def _load(
    config: EngineConfig, model_path: str, stat_logger: StatLogger, name: str | None
) -> Launched:
    uni = _executor(config) == "uni"
    cpu = current_platform.is_cpu()
    adapts = cpu and uni and environment.threads_adapt(config)
    files = tempfile.TemporaryDirectory(prefix="engine-")
    with (
        tempfile.TemporaryDirectory(prefix="engine-start-") as directory,
        environment.preloads_undone(),
    ):
        errors = Path(directory) / "errors.log"
        try:
            args = engine_args(config, model_path, name)
            settings = args.create_engine_config(UsageContext.OPENAI_API_SERVER)
            _share_steps(config, settings)
            if uni:
                settings.parallel_config.distributed_executor_backend = "uni"
            processes = environment.engine_processes(
                config, files.name, cpu=cpu, in_process=uni, adapts=adapts
            )
            with (
                processes,
                _errors_kept(settings, errors),
                interrupts_blocked(),
            ):
                llm = AsyncLLM(
                    vllm_config=settings,
                    executor_class=_executor_class(settings, adapts=adapts),
                    log_stats=True,
                    log_requests=False,
                    usage_context=UsageContext.OPENAI_API_SERVER,
                    stat_loggers=[stat_logger],
                )
            renderer = PromptRenderer(
                llm.renderer.tokenizer, llm.model_config, chat_template=config.chat_template
            )
            return llm, renderer, files
        except Exception as error:  # whatever vLLM raises, the model didn't start
            files.cleanup()
            cause = _child_cause(errors, error) or _cause(error)
            _release(error)
            raise EngineStartError(f"{config.model}: {cause}{_advice(cause)}") from error


def _matryoshka(shortened: bool) -> dict[str, Any]:
    return (
        {"is_matryoshka": True}
        if shortened
        else {"is_matryoshka": False, "matryoshka_dimensions": None}
    )


def _where_possible(config: EngineConfig, wanted: bool) -> bool | None:
    """Most models that embed read a text as a whole: vLLM knows which can do otherwise."""
    return None if wanted and config.runner == "pooling" else wanted


def _share_steps(config: EngineConfig, settings: VllmConfig) -> None:
    """Bound what one prompt takes of a step. Only here it is known how large a step is."""
    scheduler = settings.scheduler_config
    if config.runner == "generate" and scheduler.enable_chunked_prefill:
        half = max(1, scheduler.max_num_batched_tokens // 2)
        scheduler.long_prefill_token_threshold = min(
            config.long_prefill_token_threshold or half, settings.model_config.max_model_len
        )


def _lora(config: EngineConfig) -> dict[str, Any]:
    if not config.max_adapters:
        return {}
    return {
        "enable_lora": True,
        "max_loras": config.max_adapters,
        "max_lora_rank": config.max_lora_rank,
    }


def _executor(config: EngineConfig) -> str | None:
    if config.executor != "auto":
        return config.executor
    return "uni" if config.parallel.tensor * config.parallel.pipeline == 1 else None


def _executor_class(settings: VllmConfig, *, adapts: bool) -> type[Executor]:
    executor = Executor.get_class(settings)
    if executor is UniProcExecutor:
        return SharedCpuExecutor if adapts else InProcessExecutor
    # What else there is (Ray) looks after its own processes.
    return ProcessesExecutor if executor is MultiprocExecutor else executor


def _eager(config: EngineConfig, *, cpu: bool) -> bool:
    if config.compile == "off":
        return True
    problem = environment.compiler_problem() if cpu else None
    if problem is not None:
        logger.warning("running without torch.compile, which is slower: %s", problem)
    return problem is not None


def _kv_cache_bytes(config: EngineConfig, *, cpu: bool) -> int | None:
    if config.kv_cache_gib is not None:
        return int(config.kv_cache_gib * GIB)
    return int(CPU_KV_CACHE_GIB * GIB) if cpu else None


@contextlib.contextmanager
def _errors_kept(settings: Any, file: Path) -> Iterator[None]:
    """What the engine's processes log as errors also goes into `file`: vLLM itself only says
    that they died."""
    before = settings.logging_config
    if before.pylogging_config_file or not before.configure_logging:
        yield
        return
    logging_config = copy.deepcopy(DEFAULT_LOGGING_CONFIG)
    logging_config["formatters"]["plain"] = {"format": "%(message)s"}
    logging_config["handlers"]["errors"] = {
        "class": "logging.FileHandler",
        "filename": str(file),
        "formatter": "plain",
        "level": "ERROR",
    }
    logging_config["loggers"]["vllm"]["handlers"].append("errors")
    config_file = file.with_suffix(".json")
    config_file.write_text(json.dumps(logging_config), "utf-8")
    settings.logging_config = replace(before, pylogging_config_file=str(config_file))
    try:
        yield
    finally:
        settings.logging_config = before
        configure_logging(before)


_ADVICE = (
    (
        re.compile(r"KV cache|cache blocks"),
        "raise kv_cache_gib (or gpu_memory_utilization on a GPU) or lower max_model_len",
    ),
    (
        re.compile(r"out of memory|OutOfMemory|Available memory on node"),
        "lower kv_cache_gib, gpu_memory_utilization, max_num_seqs or max_model_len",
    ),
    (
        re.compile(r"InductorError|CppCompileError"),
        'engine.compile: "off" (--eager) serves without compiling',
    ),
)


def _advice(cause: str) -> str:
    """vLLM speaks of its own settings; ours have other names."""
    found = [advice for pattern, advice in _ADVICE if pattern.search(cause)]
    return f" In this configuration: {found[0]}." if found else ""


def _release(error: Exception) -> None:
    """Let go of the half-made client and its sockets, which the traceback still holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        traceback.clear_frames(error.__traceback__)
        gc.collect()


_RAISED = re.compile(r"^(?:[\w.]*\.)?\w*(?:Error|Exception|Interrupt|Exit)\b(?:: .*)?$")


def _child_cause(errors: Path, error: Exception) -> str | None:
    """The exception the engine's process died of, from its log."""
    if errors.is_file():
        lines = errors.read_text("utf-8", errors="replace").splitlines()
        raised = [i for i, line in enumerate(lines) if _RAISED.match(line)]
        if raised:
            # The first traceback is the root: later ones are raised because of it.
            return lines[raised[0]].strip()
    killed = re.search(r"Failed core proc\(s\): \{.*: -(\d+)", str(error))
    if killed is not None:
        return (
            f"the engine's process was killed by signal {killed[1]} while it was loading; "
            "if memory ran out, set a smaller kv_cache_gib or max_model_len"
        )
    return None


def _cause(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        messages = [item["msg"].removeprefix("Value error, ") for item in error.errors()]
        return "; ".join(messages)
    return str(error) or type(error).__name__
