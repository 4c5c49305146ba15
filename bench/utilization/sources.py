"""Where it can be read what a server uses: its processes, or its `/metrics`."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import aiohttp
import psutil

from bench.utilization.gpus import Gpu, Gpus

_SERIES: Final = re.compile(r"^gateway_(process|gpu)_(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Use:
    """CPU seconds so far and resident bytes of a server's processes, and what the GPUs do."""

    cpu_s: float
    resident: int
    gpus: tuple[Gpu, ...] = ()


class Source(Protocol):
    """One place to read; `kind` is how it is called in reports."""

    kind: Literal["processes", "metrics"]
    interval_s: float

    async def read(self) -> Use | None:
        """None where it can't be read now."""
        ...


class ProcessSource:
    """The processes at and below those given, and the GPUs of this machine."""

    kind: Literal["processes", "metrics"] = "processes"
    interval_s = 0.5

    def __init__(self, pids: Sequence[int], gpus: Gpus | None = None) -> None:
        self._pids = pids
        self._gpus = gpus or Gpus()
        self._family: list[psutil.Process] = []

    async def read(self) -> Use | None:
        cpu_s, resident = 0.0, 0
        try:
            # Finding them reads every process of the machine, which a measurement would notice.
            self._family = self._family or _family(self._pids)
            for process in self._family:
                with process.oneshot():
                    times = process.cpu_times()
                    cpu_s += times.user + times.system
                    resident += process.memory_info().rss
        except psutil.Error:  # one has ended: who is left is asked the next time
            self._family = []
            return None
        return Use(cpu_s, resident, await asyncio.to_thread(self._gpus.read))


class MetricsSource:
    """`/metrics` of gateways, which tell of all their processes and GPUs."""

    kind: Literal["processes", "metrics"] = "metrics"
    # Writing that page costs the server some milliseconds.
    interval_s = 2.0

    def __init__(self, base_urls: Sequence[str]) -> None:
        self._urls = [url.rstrip("/").removesuffix("/v1") + "/metrics" for url in base_urls]

    async def read(self) -> Use | None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            pages = await asyncio.gather(*(_page(session, url) for url in self._urls))
        uses = [None if page is None else parse_metrics(page) for page in pages]
        known = [use for use in uses if use is not None]
        if len(known) < len(uses):
            return None
        # Gateways on one machine see the same GPUs.
        gpus = {(gpu.index, gpu.name): gpu for use in known for gpu in use.gpus}
        return Use(
            sum(use.cpu_s for use in known),
            sum(use.resident for use in known),
            tuple(gpus.values()),
        )


def parse_metrics(page: str) -> Use | None:
    """What a gateway's page says; None where that of another server doesn't."""
    sums: dict[str, float] = defaultdict(float)
    gpus: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for kind, name, labels, value in _SERIES.findall(page):
        if kind == "process":
            sums[name] += float(value)
        else:
            found = dict(_LABEL.findall(labels))
            gpus[found.get("gpu", "0"), found.get("name", "")][name] = float(value)
    if "cpu_seconds_total" not in sums:
        return None
    return Use(
        sums["cpu_seconds_total"],
        int(sums["resident_memory_bytes"]),
        tuple(_gpu(index, name, figures) for (index, name), figures in gpus.items()),
    )


def _gpu(index: str, name: str, figures: dict[str, float]) -> Gpu:
    memory, used = figures.get("memory_bytes"), figures.get("memory_used_bytes")
    return Gpu(
        index=int(index),
        name=name,
        utilization=figures.get("utilization_ratio"),
        memory=None if memory is None else int(memory),
        memory_used=None if used is None else int(used),
        power_w=figures.get("power_watts"),
    )


def _family(pids: Sequence[int]) -> list[psutil.Process]:
    roots = [psutil.Process(pid) for pid in pids]
    return [one for root in roots for one in (root, *root.children(recursive=True))]


async def _page(session: aiohttp.ClientSession, url: str) -> str | None:
    with suppress(aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
        async with session.get(url) as response:
            if response.status == 200:
                return await response.text()
    return None
