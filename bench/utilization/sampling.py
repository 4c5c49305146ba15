"""Samples what a server uses while it is measured: cores, memory, GPUs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from bench.servers.server import ChildServer
from bench.utilization.gpus import Gpu
from bench.utilization.sources import MetricsSource, ProcessSource, Source, Use


@dataclass(frozen=True, slots=True)
class Sample:
    """What was in use at a time in seconds since the epoch."""

    at: float
    use: Use


class Sampling:
    """The samples so far, in the order of their times."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._clock = clock
        self._samples: list[Sample] = []

    async def sample(self) -> None:
        """Take one now; none where the server can't be seen."""
        use = await self._source.read()
        if use is not None:
            self._samples.append(Sample(self._clock(), use))

    @property
    def seen(self) -> bool:
        """Whether the server could be seen at all."""
        return bool(self._samples)

    def summary(self, since: float = 0.0, until: float = float("inf")) -> dict[str, Any] | None:
        """Means and peaks between two times in seconds since the epoch: as JSON, sizes in bytes.

        `cores` are CPU seconds a second of all the server's processes; memory is what they have
        resident, shared parts counted for each. None where nothing, or only one moment, was seen.
        """
        seen = self._between(since, until)
        if len(seen) < 2 or seen[-1].at <= seen[0].at:
            return None
        seconds = seen[-1].at - seen[0].at
        return {
            "source": self._source.kind,
            "samples": len(seen),
            "seconds": seconds,
            "cores_mean": max(0.0, seen[-1].use.cpu_s - seen[0].use.cpu_s) / seconds,
            "cores_peak": max(_cores(one, two) for one, two in pairwise(seen)),
            "memory_peak": max(sample.use.resident for sample in seen),
            "gpus": _gpus(seen),
        }

    def _between(self, since: float, until: float) -> list[Sample]:
        """With the last one before and the first one after, so that all of the time is covered."""
        times = [sample.at for sample in self._samples]
        first = max((n for n, at in enumerate(times) if at <= since), default=0)
        last = min((n for n, at in enumerate(times) if at >= until), default=len(times))
        return self._samples[first : last + 1]


@asynccontextmanager
async def sampled(servers: Sequence[ChildServer | str]) -> AsyncIterator[Sampling]:
    """Take samples until left. `servers` serve together: started here, or base URLs of gateways.

    ::

        async with sampled([server]) as sampling:
            ...
        sampling.summary()
    """
    async with sampling_of(source_of(servers)) as sampling:
        yield sampling


def source_of(servers: Sequence[ChildServer | str]) -> Source:
    """Processes where all of them were started here, else their `/metrics`."""
    pids = [server.pid for server in servers if isinstance(server, ChildServer)]
    if len(pids) == len(servers):
        return ProcessSource(pids)
    return MetricsSource([one if isinstance(one, str) else one.base_url for one in servers])


@asynccontextmanager
async def sampling_of(source: Source) -> AsyncIterator[Sampling]:
    """As `sampled`, from any source."""
    sampling = Sampling(source)

    async def go_on() -> None:
        while sampling.seen:  # who says nothing at first isn't asked again and again
            await asyncio.sleep(source.interval_s)
            await sampling.sample()

    await sampling.sample()
    task = asyncio.create_task(go_on())
    try:
        yield sampling
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await sampling.sample()


def _cores(one: Sample, two: Sample) -> float:
    passed = two.at - one.at
    return max(0.0, two.use.cpu_s - one.use.cpu_s) / passed if passed > 0 else 0.0


def _gpus(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    by_index: dict[int, list[Gpu]] = {}
    for sample in samples:
        for gpu in sample.use.gpus:
            by_index.setdefault(gpu.index, []).append(gpu)
    return [_summary(readings) for _, readings in sorted(by_index.items())]


def _summary(readings: Sequence[Gpu]) -> dict[str, Any]:
    busy = [gpu.utilization for gpu in readings if gpu.utilization is not None]
    used = [gpu.memory_used for gpu in readings if gpu.memory_used is not None]
    watts = [gpu.power_w for gpu in readings if gpu.power_w is not None]
    return {
        "index": readings[0].index,
        "name": readings[0].name,
        "utilization_mean": fmean(busy) if busy else None,
        "utilization_peak": max(busy, default=None),
        "memory_peak": max(used, default=None),
        "memory": readings[0].memory,
        "power_mean_w": fmean(watts) if watts else None,
    }
