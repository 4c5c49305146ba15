"""What the gateway, its engines and the machine use: read once for each scrape of `/metrics`.

Where an engine's processes are known their share is told apart; an engine without processes of its
own is a part of the gateway's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import psutil
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.gpus import Gpu, Gpus
from gateway.processes import CpuTimes, Use, uses_by_role

logger = logging.getLogger(__name__)

# The kernel counts CPU time in steps of 10 ms: a rate over less than this says little.
_WINDOW_S: Final = 0.5
_TIMEOUT_S: Final = 1.0

Processes = Callable[[], Mapping[str, Collection[int]]]


@dataclass(frozen=True, slots=True)
class Reading:
    """Use by role: `gateway`, `engine:MODEL`. Cores in use are since the reading before, and
    missing in the first."""

    uses: dict[str, Use]
    cores_used: Mapping[str, float]
    machine_cores_used: float | None
    memory: int
    memory_available: int
    gpus: list[Gpu] = field(default_factory=list)


class Utilization(Collector):
    """Reads in a thread, as a driver may take its time, and shows what was read in time.

    `engines` names the processes of each model's engine; it is called in the event loop.
    """

    def __init__(
        self,
        engines: Processes,
        *,
        gpus: Gpus | None = None,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._engines = engines
        self._gpus = gpus or Gpus()
        self._clock = clock
        self._timeout_s = timeout_s
        self._times = CpuTimes()
        self._cores, self._machine_cores = _Rates(), _Rates()
        self._under_way: asyncio.Future[Reading | None] | None = None
        self._shown: Reading | None = None

    async def refresh(self) -> None:
        """Read anew; nothing is shown where that takes longer than `timeout_s`. Never raises."""
        if self._under_way is None or self._under_way.done():
            self._under_way = self._begin()
        self._shown = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                self._shown = await asyncio.shield(self._under_way)

    def collect(self) -> Iterator[Metric]:
        """The last reading as series."""
        if self._shown is not None:
            yield from _process_series(self._shown)
            yield from _machine_series(self._shown)
            yield from _gpu_series(self._shown.gpus)

    def _begin(self) -> asyncio.Future[Reading | None]:
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Reading | None] = loop.create_future()
        engines = self._engines()

        def settle(reading: Reading | None) -> None:
            if not outcome.done():
                outcome.set_result(reading)

        def work() -> None:
            reading = None
            try:
                reading = self._read(engines)
            except Exception:  # or no scrape would ever tell anything again
                logger.warning("what is used could not be read", exc_info=True)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, reading)

        # Not in the loop's pool: a driver that never answers would keep the program from ending.
        threading.Thread(target=work, daemon=True, name="utilization").start()
        return outcome

    def _read(self, engines: Mapping[str, Collection[int]]) -> Reading:
        uses = uses_by_role(engines, self._times)
        now, memory = self._clock(), psutil.virtual_memory()
        rates = self._machine_cores.since(now, {"": _busy_s()})
        return Reading(
            uses=uses,
            cores_used=self._cores.since(now, {role: use.cpu_s for role, use in uses.items()}),
            machine_cores_used=rates.get(""),
            memory=memory.total,
            memory_available=memory.available,
            gpus=self._gpus.read(),
        )


class _Rates:
    """Seconds that grow, by name, as seconds a second."""

    def __init__(self) -> None:
        self._at = 0.0
        self._before: Mapping[str, float] | None = None
        self._found: dict[str, float] = {}

    def since(self, now: float, seconds: Mapping[str, float]) -> Mapping[str, float]:
        """Since the reading before, or what was found then where that was a moment ago."""
        passed, before = now - self._at, self._before
        if before is None or passed >= _WINDOW_S:
            self._found = {
                name: max(0.0, (used - before[name]) / passed)
                for name, used in seconds.items()
                if before is not None and name in before
            }
            self._at, self._before = now, seconds
        return self._found


def _busy_s() -> float:
    """CPU seconds of the machine in which a core did not idle."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts a guest's time twice: as such, and as the user's.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return sum(times) - idle - guests


def _process_series(reading: Reading) -> Iterator[Metric]:
    cpu = CounterMetricFamily(
        "gateway_process_cpu_seconds",
        "CPU time of the processes, those that have ended too",
        labels=("process",),
    )
    cores = _gauge(
        "gateway_process_cpu_cores_used", "CPU seconds a second, since the scrape before"
    )
    resident = _gauge("gateway_process_resident_memory_bytes", "Resident memory, shared parts in "
                      "each process that has them")  # fmt: skip
    files = _gauge("gateway_process_open_fds", "Open file descriptors")
    processes = _gauge("gateway_processes", "Living processes")
    for role, use in reading.uses.items():
        cpu.add_metric((role,), use.cpu_s)
        resident.add_metric((role,), use.resident)
        files.add_metric((role,), use.open_files)
        processes.add_metric((role,), use.processes)
    for role, used in reading.cores_used.items():
        cores.add_metric((role,), used)
    yield from (cpu, cores, resident, files, processes)


def _machine_series(reading: Reading) -> Iterator[Metric]:
    used = reading.machine_cores_used
    for name, help_text, value in (
        ("cpu_cores", "Logical cores of the machine", psutil.cpu_count()),
        ("cpu_cores_used", "Cores the machine used, whoever did, since the scrape before", used),
        ("memory_bytes", "Memory of the machine", reading.memory),
        ("memory_available_bytes", "Memory that could be had without swapping",
         reading.memory_available),
    ):  # fmt: skip
        if value is not None:
            yield GaugeMetricFamily(f"gateway_machine_{name}", help_text, value=value)


def _gpu_series(gpus: Collection[Gpu]) -> Iterator[Metric]:
    for name, help_text, field_name in (
        ("utilization_ratio", "Share of the time in which a kernel ran, 0..1", "utilization"),
        ("memory_bytes", "Memory of the GPU", "memory"),
        ("memory_used_bytes", "Memory in use, whoever uses it", "memory_used"),
        ("power_watts", "Power drawn", "power_w"),
        ("temperature_celsius", "Temperature of the chip", "temperature_c"),
    ):
        values = [(gpu, getattr(gpu, field_name)) for gpu in gpus]
        known = [(gpu, value) for gpu, value in values if value is not None]
        if known:
            family = _gauge(f"gateway_gpu_{name}", help_text, labels=("gpu", "name"))
            for gpu, value in known:
                family.add_metric((str(gpu.index), gpu.name), value)
            yield family


def _gauge(name: str, help_text: str, labels: tuple[str, ...] = ("process",)) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, labels=labels)
