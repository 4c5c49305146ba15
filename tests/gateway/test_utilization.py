"""What `/metrics` tells of processes, the machine and its GPUs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.gpus import Gpus, Nvml
from gateway.metrics import Metrics
from gateway.processes import CpuTimes
from gateway.utilization import Processes, Utilization
from tests.gateway.conftest import LiveGateway

_WITH_A_CHILD = (
    "import subprocess, sys;"
    "wait = 'import sys; sys.stdin.read()';"
    "child = subprocess.Popen([sys.executable, '-c', wait], stdin=subprocess.PIPE);"
    "print(child.pid, flush=True); input()"
)
_GIB = 1024**3


class DriverError(Exception):
    """As NVML raises."""


@dataclass
class FakeNvml:
    """Two GPUs. `refused` are functions that raise; `gate` is waited for by the first reading."""

    refused: set[str] = field(default_factory=set)
    gate: threading.Event | None = None
    opened: int = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.opened += 1
        if self.gate is not None:
            self.gate.wait(30)
        self._may("nvmlInit")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._may("nvmlDeviceGetCount")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: Any) -> str:  # noqa: N802
        return f"GPU {handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:  # noqa: N802
        self._may("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=50 + handle)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 * _GIB, used=(handle + 1) * _GIB)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        self._may("nvmlDeviceGetPowerUsage")
        return 300_500

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:  # noqa: N802
        assert sensor == 0
        return 61

    def _may(self, function: str) -> None:
        if function in self.refused:
            raise DriverError(function)


class Scrape:
    """Refreshes, and reads what would then be shown."""

    def __init__(
        self,
        engines: Processes = dict,
        nvml: Nvml | None = None,
        now: list[float] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        times = now or [0.0]
        self.utilization = Utilization(
            engines, gpus=Gpus(lambda: nvml), clock=lambda: times[0], timeout_s=timeout_s
        )
        self._registry = CollectorRegistry()
        self._registry.register(self.utilization)

    async def __call__(self) -> dict[tuple[str, str], float]:
        """Values by the series' name and its first label."""
        await self.utilization.refresh()
        return self.shown()

    def shown(self) -> dict[tuple[str, str], float]:
        return series(generate_latest(self._registry).decode())


def series(page: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@contextmanager
def process_with_a_child() -> Iterator[int]:
    """The id of a process that has started another one."""
    with subprocess.Popen(
        [sys.executable, "-c", _WITH_A_CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.communicate(b"\n")  # its child's input ends with it


async def test_the_gateway_and_each_models_engine_are_told_apart() -> None:
    with process_with_a_child() as pid:
        shown = await Scrape(lambda: {"llama": [pid]})()

    assert shown["gateway_processes", "engine:llama"] == 2
    for role in ("gateway", "engine:llama"):
        assert shown["gateway_process_resident_memory_bytes", role] > 1024**2
        assert shown["gateway_process_cpu_seconds_total", role] > 0
        assert shown["gateway_process_open_fds", role] >= 3


async def test_processes_of_no_engine_are_the_gateways_own() -> None:
    scrape = Scrape()
    alone = (await scrape())["gateway_processes", "gateway"]

    with process_with_a_child():
        together = await scrape()

    assert together["gateway_processes", "gateway"] == alone + 2
    assert {label for _, label in together if label.startswith("engine")} == set()


async def test_an_engine_whose_processes_have_ended_is_not_shown() -> None:
    with process_with_a_child() as pid:
        scrape = Scrape(lambda: {"llama": [pid]})
        assert ("gateway_processes", "engine:llama") in await scrape()

    assert ("gateway_processes", "engine:llama") not in await scrape()


async def test_cores_in_use_are_the_cpu_time_since_the_scrape_before() -> None:
    now = [0.0]
    scrape = Scrape(now=now)
    first = await scrape()
    now[0] = 10.0
    sum(range(3_000_000))
    second = await scrape()

    name = "gateway_process_cpu_seconds_total"
    used = second[name, "gateway"] - first[name, "gateway"]
    assert ("gateway_process_cpu_cores_used", "gateway") not in first
    assert used > 0
    assert second["gateway_process_cpu_cores_used", "gateway"] == pytest.approx(used / 10)
    assert second["gateway_machine_cpu_cores_used", ""] > 0


async def test_two_scrapes_at_once_see_the_same_rate() -> None:
    now = [0.0]
    scrape = Scrape(now=now)
    await scrape()
    now[0] = 10.0
    second = await scrape()
    now[0] = 10.01
    third = await scrape()

    name = "gateway_process_cpu_cores_used", "gateway"
    assert third[name] == second[name]


async def test_the_machine_has_cores_and_memory() -> None:
    shown = await Scrape()()

    assert shown["gateway_machine_cpu_cores", ""] >= 1
    memory = shown["gateway_machine_memory_bytes", ""]
    assert 0 < shown["gateway_machine_memory_available_bytes", ""] < memory


async def test_gpus_are_shown_in_base_units() -> None:
    shown = await Scrape(nvml=FakeNvml())()

    assert shown["gateway_gpu_utilization_ratio", "0"] == 0.5
    assert shown["gateway_gpu_utilization_ratio", "1"] == 0.51
    assert shown["gateway_gpu_memory_bytes", "1"] == 80 * _GIB
    assert shown["gateway_gpu_memory_used_bytes", "1"] == 2 * _GIB
    assert shown["gateway_gpu_power_watts", "0"] == 300.5
    assert shown["gateway_gpu_temperature_celsius", "0"] == 61


async def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    nvml = FakeNvml(refused={"nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates"})

    shown = await Scrape(nvml=nvml)()

    names = {name for name, _ in shown if name.startswith("gateway_gpu")}
    assert names == {
        "gateway_gpu_memory_bytes",
        "gateway_gpu_memory_used_bytes",
        "gateway_gpu_temperature_celsius",
    }


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetCount"])
async def test_a_driver_that_fails_leaves_everything_else_shown(refused: str) -> None:
    nvml = FakeNvml(refused={refused})
    scrape = Scrape(nvml=nvml)
    await scrape()

    shown = await scrape()

    assert nvml.opened == 1
    assert not any(name.startswith("gateway_gpu") for name, _ in shown)
    assert shown["gateway_processes", "gateway"] >= 1


async def test_a_driver_that_hangs_keeps_no_scrape_waiting_and_is_asked_once() -> None:
    nvml = FakeNvml(gate=threading.Event())
    scrape = Scrape(nvml=nvml, timeout_s=0.01)

    assert await scrape() == {}
    assert await scrape() == {}

    assert nvml.gate is not None
    nvml.gate.set()
    while not scrape.shown():
        await scrape.utilization.refresh()
    assert nvml.opened == 1
    assert scrape.shown()["gateway_gpu_utilization_ratio", "0"] == 0.5


async def test_no_series_of_the_whole_page_is_described_twice() -> None:
    metrics = Metrics()
    metrics.watch_utilization(dict)
    before = metrics.exposition().decode()
    await metrics.refresh()

    page = metrics.exposition().decode()

    types = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE ")]
    assert len(types) == len(set(types))
    # The Python client's own series have the gateway's process under the names of the convention.
    assert "process_cpu_seconds_total" in types
    assert ("gateway_processes", "gateway") in series(page)
    assert ("gateway_processes", "gateway") not in series(before)


async def test_metrics_without_anything_to_refresh_are_refreshed() -> None:
    await Metrics().refresh()


async def test_a_scrape_of_a_gateway_tells_what_it_uses(gateway: LiveGateway) -> None:
    shown: dict[tuple[str, str], float] = {}
    while ("gateway_processes", "gateway") not in shown:  # what isn't read in time is left out
        async with gateway.http.get(f"{gateway.url}/metrics") as answer:
            shown = series(await answer.text())

    assert shown["gateway_processes", "gateway"] >= 1
    assert shown["gateway_process_resident_memory_bytes", "gateway"] > 1024**2


def test_cpu_time_of_a_process_that_has_ended_stays() -> None:
    times, process = CpuTimes(), psutil.Process()

    assert times.of({("engine:a", process): 2.0}) == {"engine:a": 2.0}
    assert times.of({}) == {"engine:a": 2.0}
    assert times.of({("engine:a", process): 1.0}) == {"engine:a": 3.0}
