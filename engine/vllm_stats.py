"""What vLLM's scheduler tells about each step, kept for `stats()`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
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


class KeptSeries(Collector):
    """vLLM's series of every engine in this process, as if they were registered together.

    vLLM registers an engine's series for the whole process, and drops those of the one before. So
    they are taken out of the registry once an engine has started, and shown from here.
    """

    def __init__(self) -> None:
        self._registries: dict[StepStats, CollectorRegistry] = {}

    def keep(self, owner: StepStats) -> None:
        """Take over whatever of vLLM is registered now: it is `owner`'s."""
        kept = self._registries[owner] = CollectorRegistry()
        for collector in list(REGISTRY._collector_to_names):
            if getattr(collector, "_name", "").startswith("vllm:"):
                REGISTRY.unregister(collector)
                kept.register(collector)
        if self not in REGISTRY._collector_to_names:
            REGISTRY.register(self)

    def drop(self, owner: StepStats) -> None:
        """Show nothing of `owner` any more: its engine is closed."""
        self._registries.pop(owner, None)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for registry in self._registries.values():
            for family in registry.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples += family.samples
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that what is registered later may have any name."""
        return iter(())


_KEPT: Final = KeptSeries()


class StepStats:
    """The latest figures of every engine core behind one AsyncLLM, summed."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._cores: list[_CoreLogger] = []

    def keep_series(self) -> None:
        """Keep what vLLM counts of this engine, whatever other engines start. Once it has started,
        and before another one does."""
        _KEPT.keep(self)

    def close(self) -> None:
        """The engine is gone, and its series with it."""
        _KEPT.drop(self)

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
            self.meter.step(0, 0)  # whose tokens are counted where they are told

    def note(self, stats: Any) -> None:
        self.waiting = stats.num_waiting_reqs + stats.num_skipped_waiting_reqs
        self.kv_cache_usage = stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        pass
