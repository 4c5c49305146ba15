"""What vLLM's worker lacks on a CPU. Imported by the worker itself, wherever that runs.

A prompt that is computed in parts is sampled from after each part, and vLLM then turns the
request's random generator back, by an offset that only a GPU's generator has: on a CPU one such
request with a seed would stop the engine (vLLM 0.32).

A token without a LoRA adapter has the index -1, which vLLM's kernels for GPUs skip. Those for CPUs
take it for the last adapter's: beside requests with an adapter the model itself would answer as if
it had that one (vLLM 0.32).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Final

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu
from vllm.platforms import current_platform

# A step with hundreds of sequences makes tens of thousands of objects, none of them in a cycle:
# looking for cycles as often as Python does by default costs a part of every step.
_GC_THRESHOLDS: Final = 50_000, 20, 50


class RewindableGenerator(torch.Generator):  # type: ignore[misc]
    """A CPU's generator that can be turned back to its seed, which is all vLLM wants: nothing has
    been sampled that counts, unless the sequence was preempted and is computed again."""

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> None:
        self.manual_seed(self.initial_seed())


class WorkerExtension:
    """vLLM makes this a base of its worker, and so imports this module."""


def _skipping_tokens_without_adapter(expand: Callable[..., None]) -> Callable[..., None]:
    """`expand` multiplies `inputs` [tokens, rank] with the adapters' second matrices: what is zero
    there changes nothing."""

    def skipping(
        inputs: torch.Tensor,
        weights: torch.Tensor,
        outputs: torch.Tensor,
        indices: torch.Tensor,
        *args: Any,
        **options: Any,
    ) -> None:
        without = (indices < 0).unsqueeze(1)
        expand(inputs.masked_fill(without, 0), weights, outputs, indices, *args, **options)

    return skipping


def _mend_adapters() -> None:
    for name in ("bgmv_expand", "bgmv_expand_slice"):
        mended = _skipping_tokens_without_adapter(getattr(lora_ops, name))
        setattr(lora_ops, name, mended)
        setattr(punica_cpu, name, mended)


gc.set_threshold(*_GC_THRESHOLDS)
if current_platform.is_cpu():
    torch.Generator = RewindableGenerator
    _mend_adapters()
