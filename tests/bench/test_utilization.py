from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Literal

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from bench.servers.server import ChildServer
from bench.utilization.gpus import Gpu, Gpus
from bench.utilization.sampling import Sampling, sampled, source_of
from bench.utilization.sources import MetricsSource, ProcessSource, Use, parse_metrics
from gateway.utilization import Utilization

_BUSY_THEN_IDLE = "sum(range(5_000_000)); print(flush=True); input()"


class Scripted:
    """Gives these uses in turn."""

    kind: Literal["processes", "metrics"] = "processes"
    interval_s = 3600.0

    def __init__(self, uses: Sequence[Use | None]) -> None:
        self._uses = iter(uses)

    async def read(self) -> Use | None:
        return next(self._uses)


async def sampling_at(times: Sequence[float], uses: Sequence[Use | None]) -> Sampling:
    """Samples that were taken at these times."""
    clock = iter(times)
    sampling = Sampling(Scripted(uses), clock=lambda: next(clock))
    for _ in uses:
        await sampling.sample()
    return sampling


def gpu(utilization: float | None, used: int = 5, index: int = 0) -> Gpu:
    return Gpu(index, "H200", utilization, 100, used, 300.0)


def running(code: str) -> subprocess.Popen[bytes]:
    """Python, which runs `code`; to be left only after it has ended."""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def test_a_summary_has_means_and_peaks() -> None:
    uses = [Use(10.0, 100), Use(11.0, 300), Use(15.0, 200)]

    found = (await sampling_at([0, 2, 4], uses)).summary()

    assert found is not None
    assert found["cores_mean"] == pytest.approx(5 / 4)
    assert found["cores_peak"] == pytest.approx(4 / 2)
    assert found["memory_peak"] == 300
    assert found["gpus"] == []


async def test_a_summary_of_a_window_reaches_just_beyond_its_ends() -> None:
    uses = [Use(float(n * n), 10 * n) for n in range(7)]

    found = (await sampling_at(range(7), uses)).summary(since=1.5, until=3.2)

    assert found is not None
    assert (found["samples"], found["seconds"]) == (4, 3)
    assert found["cores_mean"] == pytest.approx((16 - 1) / 3)
    assert found["memory_peak"] == 40


async def test_one_moment_is_no_utilization() -> None:
    assert (await sampling_at([1], [Use(1.0, 1), None])).summary() is None
    assert (await sampling_at([], [])).summary() is None


async def test_gpus_are_told_one_by_one() -> None:
    uses = [
        Use(0.0, 0, (gpu(0.5), gpu(0.1, 7, index=1))),
        Use(0.0, 0, (gpu(1.0, 9), gpu(None, index=1))),
    ]

    found = (await sampling_at([0, 1], uses)).summary()

    assert found is not None
    first, second = found["gpus"]
    assert (first["utilization_mean"], first["utilization_peak"]) == (0.75, 1.0)
    assert (first["memory_peak"], first["memory"], first["power_mean_w"]) == (9, 100, 300)
    assert (second["utilization_mean"], second["memory_peak"]) == (0.1, 7)


async def test_a_server_started_here_is_seen_by_its_processes() -> None:
    with running(_BUSY_THEN_IDLE) as child:
        async with sampled([ChildServer("http://127.0.0.1:1/v1", child.pid, 0.0)]) as sampling:
            assert child.stdout is not None
            child.stdout.readline()
        resident = psutil.Process(child.pid).memory_info().rss
        child.communicate(b"\n")

    found = sampling.summary()
    assert found is not None
    assert found["source"] == "processes"
    assert found["cores_mean"] > 0
    assert found["memory_peak"] >= resident / 2


async def test_a_server_that_has_ended_is_not_seen() -> None:
    with running("input()") as child:
        source = ProcessSource([child.pid])
        assert await source.read() is not None
        child.communicate(b"\n")

    assert await source.read() is None
    assert await source.read() is None


@asynccontextmanager
async def page_server(pages: Sequence[str]) -> AsyncIterator[str]:
    """The base URL of a server whose `/metrics` shows these pages in turn, then the last one."""
    left = list(pages)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text=left.pop(0) if len(left) > 1 else left[0])

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1"))


def page(cpu_s: float) -> str:
    return (
        "# TYPE gateway_process_cpu_seconds_total counter\n"
        f'gateway_process_cpu_seconds_total{{process="gateway"}} {cpu_s}\n'
        f'gateway_process_cpu_seconds_total{{process="engine:m"}} {3 * cpu_s}\n'
        'gateway_process_resident_memory_bytes{process="gateway"} 1000.0\n'
        'gateway_process_resident_memory_bytes{process="engine:m"} 2e+03\n'
        'gateway_gpu_utilization_ratio{gpu="0",name="H200"} 0.25\n'
        'gateway_gpu_memory_bytes{gpu="0",name="H200"} 64.0\n'
        'vllm:num_requests_running{engine="0"} 0.0\n'
    )


async def test_a_gateway_elsewhere_is_seen_by_its_metrics() -> None:
    async with (
        page_server([page(10), page(14)]) as one,
        page_server([page(1), page(2)]) as other,
        sampled([one, other]) as sampling,
    ):
        pass

    found = sampling.summary()
    assert found is not None
    assert found["source"] == "metrics"
    assert found["cores_mean"] * found["seconds"] == pytest.approx(4 * (4 + 1))
    assert found["memory_peak"] == 6000
    assert [one["utilization_mean"] for one in found["gpus"]] == [0.25]


@pytest.mark.parametrize("shown", ["", 'process_cpu_seconds_total 12.0\nvllm:x{a="b"} 1\n'])
async def test_a_server_that_does_not_tell_has_no_utilization(shown: str) -> None:
    async with page_server([shown]) as url, sampled([url]) as sampling:
        pass

    assert sampling.summary() is None


async def test_no_server_has_no_utilization() -> None:
    async with page_server([""]) as url:
        pass

    assert await MetricsSource([url]).read() is None


async def test_what_the_gateway_writes_is_what_is_read() -> None:
    utilization = Utilization(dict)
    registry = CollectorRegistry()
    registry.register(utilization)
    await utilization.refresh()

    found = parse_metrics(generate_latest(registry).decode())

    assert found is not None
    assert found.cpu_s > 0
    assert found.resident > 1024**2


def test_servers_of_both_kinds_are_seen_by_their_metrics() -> None:
    child = ChildServer("http://127.0.0.1:1/v1", 1, 0.0)

    assert source_of([child]).kind == "processes"
    assert source_of([child, "http://127.0.0.1:2/v1"]).kind == "metrics"


class FakeNvml:
    """Two GPUs, the second of which tells only its name."""

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"GPU {handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=_only_the_first(handle, 40))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=_only_the_first(handle, 80), used=8)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return _only_the_first(handle, 70_000)


def _only_the_first(handle: int, value: int) -> int:
    if handle:
        raise RuntimeError("not supported")
    return value


def test_gpus_tell_what_they_can() -> None:
    assert Gpus(FakeNvml).read() == (
        Gpu(0, "GPU 0", 0.4, 80, 8, 70.0),
        Gpu(1, "GPU 1", None, None, None, None),
    )


def test_without_library_or_driver_there_are_no_gpus() -> None:
    assert Gpus(lambda: None).read() == ()
    assert Gpus(object).read() == ()
