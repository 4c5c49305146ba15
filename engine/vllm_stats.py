"""What vLLM's scheduler tells about each step, kept for `stats()`."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from engine.meter import Meter


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
            self.waiting = (
                scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            )
            self.kv_cache_usage = scheduler_stats.kv_cache_usage
        if iteration_stats is not None:
            self.meter.step(
                iteration_stats.num_prompt_tokens, iteration_stats.num_generation_tokens
            )

    def log_engine_initialized(self) -> None:
        pass
