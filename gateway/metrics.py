"""What `/metrics` shows: our own series in a registry of their own, then vLLM's."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from engine.base import EngineStats
from gateway.config import SloConfig
from gateway.utilization import Processes, Utilization

_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip


class Metrics:
    """The gateway's series. Labels never hold anything a client chose freely."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._utilization: Utilization | None = None
        self.http_requests = Counts(
            registry, "gateway_http_requests", "Answers by route and status", "route", "status"
        )
        self.requests_running = Gauge(
            "gateway_requests_running", "Requests that hold a permit", registry=registry
        )
        success = Counts(
            registry, "gateway_request_success", "Finished choices by finish reason",
            "finished_reason",
        )  # fmt: skip
        self.request_success = {reason: success.labels(reason) for reason in ("stop", "length")}
        self.request_aborted = Counts(
            registry, "gateway_request_aborted", "Requests that ended early, by cause", "cause"
        )
        self.prompt_tokens = Counts(
            registry, "gateway_prompt_tokens", "Prompt tokens of started requests"
        ).labels()
        self.cached_tokens = Counts(
            registry, "gateway_cached_tokens", "Prompt tokens found in the prefix cache"
        ).labels()
        self.generation_tokens = Counts(
            registry, "gateway_generation_tokens", "Tokens generated, also those of requests that "
            "ended early",
        ).labels()  # fmt: skip
        self.time_to_first_token = Times(
            registry, "gateway_time_to_first_token_seconds", "Request received to first token"
        )
        self.inter_token_latency = Times(
            registry, "gateway_inter_token_latency_seconds", "Between a choice's tokens"
        )
        self.time_per_output_token = Times(
            registry, "gateway_request_time_per_output_token_seconds",
            "Mean time of a request's tokens after its first",
        )  # fmt: skip
        self.judged = Counts(
            registry, "gateway_slo_requests",
            "Complete answers of models that have objectives, by whether they met them (goodput)",
            "model_name", "met",
        )  # fmt: skip
        self.e2e_latency = Times(
            registry, "gateway_e2e_request_latency_seconds", "Request received to last token"
        )

    def judge(self, model: str, slo: SloConfig, ttft: float, tpot: float) -> None:
        """Count a complete answer by whether it met the model's objectives; times in seconds."""
        if slo.ttft_ms is None and slo.tpot_ms is None:
            return
        met = ttft * 1000 <= (slo.ttft_ms or math.inf) and tpot * 1000 <= (slo.tpot_ms or math.inf)
        self.judged.labels(model, "true" if met else "false").inc()

    def watch_queues(self, stats: Callable[[], Mapping[str, QueueFigures]]) -> None:
        """Add gauges that read the queues when they are scraped. `stats` are by model."""
        self.registry.register(_Gauges(_QUEUE_GAUGES, stats))

    def watch_ledger(self, waiting: Callable[[], int]) -> None:
        """Add a gauge of the rows that are still to reach the database."""
        Gauge(
            "gateway_ledger_rows_waiting", "Rows not in the database yet", registry=self.registry
        ).set_function(waiting)

    def watch_engines(self, stats: Callable[[], Mapping[str, EngineStats]]) -> None:
        """Add gauges that read the engines when they are scraped. `stats` are by model."""
        self.registry.register(_Gauges(_ENGINE_GAUGES, stats))
        self.registry.register(_Gauges(_ENGINE_COUNTERS, stats, CounterMetricFamily))

    def watch_utilization(self, engines: Processes) -> None:
        """Add what processes, machine and GPUs use. `engines` are the process ids by model."""
        self._utilization = Utilization(engines)
        self.registry.register(self._utilization)

    async def refresh(self) -> None:
        """Before each scrape: read what takes its time. Ends within a second or so."""
        if self._utilization is not None:
            await self._utilization.refresh()

    def exposition(self) -> bytes:
        """Prometheus text of our registry and of the process-wide one, which holds vLLM's."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)


class Count:
    """One number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        self.value += amount


class Counts(Collector):
    """A counter for what every request does, a `Count` for each value of its labels. It costs a
    fifth of prometheus_client's, which may be counted by several threads."""

    def __init__(
        self, registry: CollectorRegistry, name: str, help_text: str, *labels: str
    ) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The count of these values of the labels, 0 where they are new."""
        count = self._counts.get(values)
        if count is None:
            count = self._counts[values] = Count()
        return count

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        yield family


class Times(Collector):
    """A histogram of seconds, for what every request or token does; as `Counts`."""

    def __init__(self, registry: CollectorRegistry, name: str, help_text: str) -> None:
        self._name = name
        self._help = help_text
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, seconds: float, times: int = 1) -> None:
        self._counts[bisect_left(_SECONDS, seconds)] += times
        self._sum += seconds * times

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily(self._name, self._help, buckets, self._sum)


_ENGINE_GAUGES = (
    ("gateway_engine_sequences_running", "Sequences in the running batch", "running"),
    ("gateway_engine_sequences_waiting", "Sequences waiting", "waiting"),
    ("gateway_kv_cache_usage_perc", "KV cache in use, 0..1", "kv_cache_usage"),
    ("gateway_engine_tokens_per_second", "Recent generation", "tokens_per_second"),
)

_ENGINE_COUNTERS = (
    ("gateway_engine_prompt_tokens", "Prompt tokens the model's engines have read, by their own "
     "count", "prompt_tokens_total"),
    ("gateway_engine_generation_tokens", "Tokens the model's engines have generated, by their own "
     "count", "generation_tokens_total"),
)  # fmt: skip


_QUEUE_GAUGES = (
    ("gateway_requests_waiting", "Requests that wait for the engine", "queued"),
    ("gateway_waiting_tokens", "Prompt tokens that wait for the engine", "queued_tokens"),
    ("gateway_predicted_ttft_seconds", "What a request that came now would wait",
     "predicted_ttft_s"),
    ("gateway_prefill_tokens_per_second", "Measured prefill rate", "prefill_tokens_per_s"),
)  # fmt: skip


class QueueFigures(Protocol):
    """What `admission.QueueStats` tells; unknown figures are None."""

    @property
    def queued(self) -> int: ...


class _Gauges(Collector):
    def __init__(
        self,
        gauges: Sequence[tuple[str, str, str]],
        stats: Callable[[], Mapping[str, object]],
        family: type[GaugeMetricFamily] | type[CounterMetricFamily] = GaugeMetricFamily,
    ) -> None:
        self._gauges = gauges
        self._stats = stats
        self._family = family

    def collect(self) -> Iterator[Metric]:
        found = self._stats()
        for name, help_text, field in self._gauges:
            family = self._family(name, help_text, labels=("model_name",))
            for model, stats in found.items():
                if (value := getattr(stats, field)) is not None:
                    family.add_metric((model,), float(value))
            yield family
