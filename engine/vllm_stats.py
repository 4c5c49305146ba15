"""What vLLM's scheduler tells about each step, kept for `stats()`."""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import REGISTRY
from vllm.v1.metrics.loggers import StatLoggerBase

from engine.meter import Meter

# What vLLM counts for each request and token in `OutputProcessor`.
_REQUEST_SERIES: Final = (
    "vllm:corrupted_requests",
    "vllm:e2e_request_latency",
    "vllm:generation_tokens",
    "vllm:inter_token_latency",
    "vllm:iteration_tokens",
    "vllm:num_preemptions",
    "vllm:prompt_tokens",
    "vllm:request_",
    "vllm:time_to_first_token",
    "vllm:watermark_requests",
)


def hide_request_series() -> None:
    """Unregister the series of vLLM that the direct path doesn't feed: a zero would be a lie. The
    gateway has its own for the same things."""
    for collector in list(REGISTRY._collector_to_names):
        if getattr(collector, "_name", "").startswith(_REQUEST_SERIES):
            REGISTRY.unregister(collector)


class StepStats:
    """The latest figures of every engine core behind one AsyncLLM, summed."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._cores: list[_CoreLogger] = []

    def factory(self, _vllm_config: Any, engine_index: int) -> StatLoggerBase:
        """What `AsyncLLM(stat_loggers=…)` takes: makes one logger for each core."""
        core = _CoreLogger(_vllm_config, engine_index)
        core.meter = self._meter
        self._cores.append(core)
        return core

    def note(self, engine_index: int, scheduler_stats: Any) -> None:
        """A step's figures, without telling vLLM's other loggers."""
        self._cores[engine_index].note(scheduler_stats)

    @property
    def waiting(self) -> int:
        return sum(core.waiting for core in self._cores)

    @property
    def kv_cache_usage(self) -> float:
        """The mean over the cores: each has a cache of the same size."""
        return sum(core.kv_cache_usage for core in self._cores) / max(1, len(self._cores))


class _CoreLogger(StatLoggerBase):  # type: ignore[misc]
    meter: Meter

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.waiting = 0
        self.kv_cache_usage = 0.0

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is not None:
            self.note(scheduler_stats)
        if iteration_stats is not None:
            self.meter.step(
                iteration_stats.num_prompt_tokens, iteration_stats.num_generation_tokens
            )

    def note(self, stats: Any) -> None:
        self.waiting = stats.num_waiting_reqs + stats.num_skipped_waiting_reqs
        self.kv_cache_usage = stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        pass
