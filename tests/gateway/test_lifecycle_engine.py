"""A real engine that is held, killed and replaced."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from engine import vllm_engine
from engine.base import Engine, EngineDeadError, GenerateRequest, Prompt, SamplingOptions
from engine.config import EngineConfig
from engine.simulated import SimulatedEngine
from engine.streaming import generate
from gateway.adapters import Adapters
from gateway.config import HealthConfig, ModelConfig
from gateway.deployments import Deployments, Replica
from gateway.lifecycle import Lifecycle
from gateway.supervisor import StartEngine, Supervisor
from tests.engines import CONFIGS, Engines

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine]

HEALTH = HealthConfig(restart_pause_s=0.01)
_ids = (f"held-{number}" for number in itertools.count())


class Rooms:
    """One supervised replica and its readiness."""

    def __init__(self, start: StartEngine) -> None:
        deployments = Deployments([ModelConfig(name="model", engine=CONFIGS["tiny"])])
        self.replica: Replica = deployments.replicas[0]
        self.lifecycle = Lifecycle(HEALTH, deployments)
        self.supervisor = Supervisor(
            deployments.replicas, Adapters(deployments), HEALTH, start, lambda: None
        )
        self.deployment = deployments.default

    @property
    def engine(self) -> Engine:
        return self.deployment.engine()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def rooms(engines: Engines) -> AsyncIterator[Rooms]:
    await engines.stop()

    async def start(config: EngineConfig, _report: Any, name: str) -> Engine:
        return await vllm_engine.start(config, str(engines.path("tiny")), name=name)

    rooms = Rooms(start)
    await rooms.supervisor.load(rooms.replica)
    yield rooms
    rooms.supervisor.stop()
    await rooms.supervisor.close()


def core() -> psutil.Process:
    (child,) = multiprocessing.active_children()
    return psutil.Process(child.pid)


def shared_memory(process: psutil.Process) -> set[Path]:
    """The files in shared memory that a process uses."""
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    found = (line.split(maxsplit=5)[-1] for line in maps.splitlines())
    return {Path(name) for name in found if name.startswith("/dev/shm/")}


def request(tokens: int = 64, generated: tuple[int, ...] = ()) -> GenerateRequest:
    sampling = SamplingOptions(temperature=0, max_tokens=tokens, ignore_eos=True)
    return GenerateRequest(next(_ids), Prompt([65] * 30), sampling, generated=generated)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_engine_that_is_held_is_not_ready_until_it_goes_on(rooms: Rooms) -> None:
    process = core()
    deltas = generate(rooms.engine, request(900))
    await anext(deltas)
    assert await rooms.lifecycle.not_ready_because() is None
    process.send_signal(signal.SIGSTOP)
    try:
        await eventually(lambda: process.status() == psutil.STATUS_STOPPED)
        assert await rooms.lifecycle.not_ready_because() == "stalled"
        assert await rooms.lifecycle.alive()
    finally:
        process.send_signal(signal.SIGCONT)
    await eventually(lambda: process.status() != psutil.STATUS_STOPPED)
    assert await rooms.lifecycle.not_ready_because() is None
    assert len([delta async for delta in deltas]) > 0


async def test_a_killed_engine_is_replaced_and_an_answer_goes_on_exactly(rooms: Rooms) -> None:
    uncut = [delta async for delta in generate(rooms.engine, request(800))]
    whole = [token for delta in uncut for token in delta.token_ids]
    killed, text = core(), ""
    tokens: list[int] = []
    left = shared_memory(killed)
    assert left
    try:
        async for delta in generate(rooms.engine, request(800)):
            text += delta.text
            tokens += delta.token_ids
            killed.kill()
    except EngineDeadError:
        pass
    assert 0 < len(tokens) < 800
    async with asyncio.timeout(120):
        await rooms.replica.available()
    assert not killed.is_running()
    await eventually(lambda: not any(path.exists() for path in left))
    async for delta in generate(rooms.engine, request(800, tuple(tokens))):
        text += delta.text
        tokens += delta.token_ids
    assert tokens == whole
    assert text == "".join(delta.text for delta in uncut)
    assert await rooms.lifecycle.not_ready_because() is None


async def test_shutting_down_during_a_restart_leaves_no_process(engines: Engines) -> None:
    before = set(multiprocessing.active_children())
    first = SimulatedEngine(EngineConfig(kind="simulated"))

    async def start(config: EngineConfig, _report: Any, name: str) -> Engine:
        if first.alive:
            return first
        return await vllm_engine.start(CONFIGS["tiny"], str(engines.path("tiny")), name=name)

    rooms = Rooms(start)
    await rooms.supervisor.load(rooms.replica)
    await first.close()
    async with asyncio.timeout(60):
        while not (begun := set(multiprocessing.active_children()) - before):
            await asyncio.sleep(0.01)
    waiting = asyncio.create_task(rooms.replica.available())
    await asyncio.sleep(0)
    rooms.supervisor.stop()
    with pytest.raises(EngineDeadError):
        await waiting
    async with asyncio.timeout(30):
        await rooms.supervisor.close()
    assert not any(process.is_alive() for process in begun)
    assert set(multiprocessing.active_children()) == before
