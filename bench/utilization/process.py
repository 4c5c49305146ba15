"""What a serving process holds: memory, descriptors, threads, and what its gauges say."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.errors import BenchError
from bench.servers.server import ChildServer

# What both servers have to be back at when nobody asks anything: nothing runs, waits or is held.
IDLE_GAUGES = (
    "gateway_requests_running",
    "gateway_engine_sequences_running",
    "gateway_engine_sequences_waiting",
    "gateway_kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
)
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of the serving process, and of all that it started together."""

    serving: int
    children: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """Open file descriptors and threads of the serving process; its idle gauges by name."""

    descriptors: int
    threads: int
    gauges: dict[str, float]

    @property
    def busy_gauges(self) -> dict[str, float]:
        """Those that say that something still runs, waits or is held."""
        return {name: value for name, value in self.gauges.items() if value != 0}


def memory(pid: int) -> Memory:
    """Raises psutil.NoSuchProcess: the server is gone."""
    serving = psutil.Process(pid)
    children = 0
    for child in serving.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            children += child.memory_info().rss
    return Memory(serving.memory_info().rss, children)


async def settled(server: ChildServer, before: Holdings | None, timeout_s: float) -> Holdings:
    """What an idle server holds, once that is no more than `before`, at the latest after
    `timeout_s`: it notices closed connections and aborted requests a moment after their client.

    Raises BenchError and psutil.NoSuchProcess: it is gone.
    """
    give_up = perf_counter() + timeout_s
    async with aiohttp.ClientSession() as session:
        while True:
            found = await _holdings(server, session)
            back = before is None or found.descriptors <= before.descriptors
            if (back and not found.busy_gauges) or perf_counter() > give_up:
                return found
            await asyncio.sleep(_POLL_S)


async def _holdings(server: ChildServer, session: aiohttp.ClientSession) -> Holdings:
    url = server.base_url.removesuffix("/v1") + "/metrics"
    try:
        async with session.get(url) as response:
            text = await response.text() if response.status == 200 else ""
    except aiohttp.ClientError as error:
        raise BenchError(f"{url}: can't be read: {error}") from error
    gauges: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in IDLE_GAUGES:
                gauges[sample.name] = gauges.get(sample.name, 0.0) + sample.value
    process = psutil.Process(server.pid)
    return Holdings(process.num_fds(), process.num_threads(), gauges)
