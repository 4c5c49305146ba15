"""Whether the installed vLLM has the internals the direct token path is written for.

What `vllm_direct`, `vllm_requests` and `vllm_text` use beyond vLLM's public interface is named
here, with the place it has. Written against vLLM 0.32.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

_OUTPUT: Final = (
    "request_id",
    "new_token_ids",
    "finish_reason",
    "prefill_stats",
    "new_logprobs",
    "new_prompt_logprobs_tensors",
)
_OUTPUTS: Final = ("engine_index", "outputs", "scheduler_stats", "utility_output")
_REQUEST: Final = (
    "request_id",
    "prompt_token_ids",
    "sampling_params",
    "arrival_time",
    "client_index",
    "external_req_id",
    "lora_request",
    "priority",
)
_ASYNC_LLM: Final = ("input_processor", "logger_manager", "get_supported_tasks", "get_tokenizer")
_CLIENT: Final = (
    "input_socket",
    "core_engine",
    "client_index",
    "encoder",
    "decoder",
    "utility_results",
    "ensure_alive",
)
_RESOURCES: Final = ("output_socket", "output_queue_task", "engine_dead", "validate_alive")
_PREFILL: Final = ("num_prompt_tokens", "num_cached_tokens")
_SCHEDULER: Final = (
    "num_waiting_reqs",
    "num_skipped_waiting_reqs",
    "kv_cache_usage",
    "prefix_cache_stats",
    "spec_decoding_stats",
)
_FINISH_REASONS: Final = ("stop", "length", "abort", "error", "repetition")
_PROCESS_INPUTS: Final = ("request_id", "prompt", "params", "supported_tasks")


def mismatch(llm: Any) -> str | None:
    """Why the direct path can't be used with this `AsyncLLM`, or None where it can."""
    try:
        return next(_mismatches(llm), None)
    except (ImportError, AttributeError, TypeError) as error:
        return f"vLLM's internals have changed: {error}"


def _mismatches(llm: Any) -> Iterator[str]:
    from transformers import TokenizersBackend
    from vllm.v1 import engine
    from vllm.v1.engine import core_client, detokenizer
    from vllm.v1.metrics import stats

    client = llm.engine_core
    if type(client) is not core_client.AsyncMPClient:
        yield f"requests are spread over several engines by {type(client).__name__}"
    if client.resources.output_queue_task is not None:
        yield "vLLM reads the engine's outputs already"
    for struct, fields in (
        (engine.EngineCoreOutput, _OUTPUT),
        (engine.EngineCoreOutputs, _OUTPUTS),
        (engine.EngineCoreRequest, _REQUEST),
    ):
        yield from _absent(struct.__name__, fields, struct.__struct_fields__)
    names: tuple[str, ...]
    for name, thing, names in (
        ("engine_core", client, _CLIENT),
        ("engine_core.resources", client.resources, _RESOURCES),
        ("PrefillStats", stats.PrefillStats(), _PREFILL),
        ("SchedulerStats", stats.SchedulerStats(), _SCHEDULER),
        ("AsyncLLM", llm, _ASYNC_LLM),
        ("core_client", core_client, ("_process_utility_output",)),
        ("SlowIncrementalDetokenizer", detokenizer.SlowIncrementalDetokenizer, ("decode_next",)),
    ):
        yield from _absent(name, names, [each for each in names if hasattr(thing, each)])
    if tuple(engine.FINISH_REASON_STRINGS) != _FINISH_REASONS:
        yield f"its finish reasons are {engine.FINISH_REASON_STRINGS}"
    parameters = inspect.signature(llm.input_processor.process_inputs).parameters
    yield from _absent("process_inputs", _PROCESS_INPUTS, parameters)
    tokenizer = llm.get_tokenizer()
    if isinstance(tokenizer, TokenizersBackend) and not hasattr(tokenizer, "_tokenizer"):
        yield "its tokenizer hides the Rust one"


def _absent(owner: str, wanted: tuple[str, ...], present: Any) -> Iterator[str]:
    absent = [name for name in wanted if name not in present]
    if absent:
        yield f"{owner} has no {', '.join(absent)}"
