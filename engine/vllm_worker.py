"""What vLLM's worker lacks on a CPU. Imported by the worker itself, wherever that runs.

A prompt that is computed in parts is sampled from after each part, and vLLM then turns the
request's random generator back, by an offset that only a GPU's generator has: on a CPU one such
request with a seed would stop the engine (vLLM 0.32).
"""

from __future__ import annotations

import torch
from vllm.platforms import current_platform


class RewindableGenerator(torch.Generator):  # type: ignore[misc]
    """A CPU's generator that can be turned back to its seed, which is all vLLM wants: nothing has
    been sampled that counts, unless the sequence was preempted and is computed again."""

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> None:
        self.manual_seed(self.initial_seed())


class WorkerExtension:
    """vLLM makes this a base of its worker, and so imports this module."""


if current_platform.is_cpu():
    torch.Generator = RewindableGenerator
