"""A dead engine is started again: when, how often, with what, and what is said meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import (
    Engine,
    EngineDeadError,
    EngineStartError,
    GenerateRequest,
    LoadedModel,
    Prompt,
    SamplingOptions,
)
from engine.config import EngineConfig
from engine.simulated import SimulatedEngine
from engine.simulated_pooling import SimulatedEmbedder
from engine.streaming import generate
from gateway.adapters import Adapters
from gateway.config import AdapterConfig, HealthConfig, ModelConfig
from gateway.deployments import Deployments, Replica
from gateway.errors import UnavailableError
from gateway.supervisor import SETTLED_S, Restarts, Supervisor
from tests.gateway.several import make_adapter, simulated

_ids = (f"restarts-{number}" for number in itertools.count())
HEALTH = HealthConfig(restart_pause_s=0.001, restarts=3)
Start = Callable[[EngineConfig, Any, str], Awaitable[LoadedModel]]


class Engines:
    """Starts simulated engines; some starts fail, or wait until they are allowed."""

    def __init__(self, *, failing: set[int] | None = None) -> None:
        self.made: list[LoadedModel] = []
        self.starts = 0
        self.failing = failing or set()
        self.allowed = asyncio.Event()
        self.allowed.set()

    async def __call__(self, config: EngineConfig, _report: Any, _name: str) -> LoadedModel:
        self.starts += 1
        await self.allowed.wait()
        if self.starts in self.failing:
            raise EngineStartError("no such device")
        make = SimulatedEmbedder if config.runner == "pooling" else SimulatedEngine
        self.made.append(make(config))
        return self.made[-1]


class Watched:
    """What a replica's watcher saw of it."""

    def __init__(self, replica: Replica) -> None:
        self.states: list[str] = []
        replica.watchers.append(lambda seen: self.states.append(seen.state))


class Rooms:
    """One model, supervised."""

    def __init__(self, start: Start, health: HealthConfig, **model: Any) -> None:
        engine = {**simulated(max_adapters=2), **model.pop("engine", {})}
        config = ModelConfig(name="model", engine=EngineConfig(**engine), **model)
        self.deployments = Deployments([config])
        self.replica = self.deployments.replicas[0]
        self.adapters = Adapters(self.deployments)
        self.ended = asyncio.Event()
        self.watched = Watched(self.replica)
        self.supervisor = Supervisor(
            self.deployments.replicas, self.adapters, health, start, self.ended.set
        )

    @property
    def engine(self) -> Engine:
        return self.deployments.default.engine()

    async def kill(self) -> None:
        """The engine dies, in the middle of a completion."""
        engine = self.replica.loaded
        assert isinstance(engine, SimulatedEngine | SimulatedEmbedder)
        engine._die("killed")

    async def available(self) -> None:
        async with asyncio.timeout(5):
            await self.replica.available()


@asynccontextmanager
async def supervised(
    start: Start, health: HealthConfig = HEALTH, **model: Any
) -> AsyncIterator[Rooms]:
    rooms = Rooms(start, health, **model)
    try:
        await rooms.supervisor.load(rooms.replica)
        yield rooms
    finally:
        rooms.supervisor.stop()
        await rooms.supervisor.close()


async def complete(engine: Engine, tokens: int, **fields: Any) -> list[int]:
    sampling = SamplingOptions(max_tokens=tokens, ignore_eos=True)
    request = GenerateRequest(next(_ids), Prompt([65] * 5), sampling, **fields)
    return [token async for delta in generate(engine, request) for token in delta.token_ids]


async def test_a_dead_engine_is_replaced_and_serves_again() -> None:
    engines = Engines()
    async with supervised(engines) as rooms:
        first = rooms.engine
        await rooms.kill()
        await rooms.available()
        assert rooms.engine is not first
        assert len(await complete(rooms.engine, 5)) == 5
        assert rooms.watched.states == ["ready", "restarting", "ready"]
        with pytest.raises(EngineDeadError):
            await complete(first, 1)


async def test_a_scripted_death_is_played_once() -> None:
    async with supervised(Engines(), engine={"simulated": {"die_after_tokens": 3}}) as rooms:
        with pytest.raises(EngineDeadError):
            await complete(rooms.engine, 10)
        await rooms.available()
        assert len(await complete(rooms.engine, 10)) == 10


async def test_one_that_dies_again_and_again_is_given_up() -> None:
    engines = Engines()
    script = {"die_after_tokens": 0, "die_again": True}
    async with supervised(engines, engine={"simulated": script}) as rooms:
        for _ in range(1 + HEALTH.restarts):
            await rooms.available()
            with pytest.raises(EngineDeadError):
                await complete(rooms.engine, 1)
        async with asyncio.timeout(5):
            await rooms.ended.wait()
        assert engines.starts == 1 + HEALTH.restarts
        assert rooms.replica.state == "dead"
        with pytest.raises(EngineDeadError):
            await rooms.available()
        with pytest.raises(EngineDeadError):
            _ = rooms.engine
        assert not any(engine.alive for engine in engines.made)


async def test_a_start_that_fails_is_tried_again() -> None:
    engines = Engines(failing={2, 3})
    async with supervised(engines) as rooms:
        await rooms.kill()
        await rooms.available()
        assert engines.starts == 4
        assert not rooms.ended.is_set()


async def test_without_restarts_a_dead_engine_stays_dead() -> None:
    engines = Engines()
    async with supervised(engines, HealthConfig(restarts=0)) as rooms:
        await rooms.kill()
        async with asyncio.timeout(5):
            await rooms.ended.wait()
        assert (rooms.replica.state, engines.starts) == ("dead", 1)


async def test_while_it_is_started_again_requests_are_told_when_to_come_back() -> None:
    engines = Engines()
    async with supervised(engines) as rooms:
        engines.allowed.clear()
        await rooms.kill()
        with pytest.raises(UnavailableError) as refused:
            _ = rooms.engine
        assert refused.value.code == "engine_restarting"
        assert 1 <= int(refused.value.headers["retry-after"]) <= 60
        waiting = asyncio.create_task(rooms.available())
        await asyncio.sleep(0)
        assert not waiting.done()
        engines.allowed.set()
        await waiting


async def test_the_time_to_come_back_is_that_of_the_last_start() -> None:
    now = 0.0
    replica = Replica(ModelConfig(name="model", engine=EngineConfig(kind="simulated")), lambda: now)
    replica.loaded = engine = SimulatedEngine(replica.config.engine)
    await engine.close()
    replica.expect(40)
    now = 10.0
    with pytest.raises(UnavailableError) as refused:
        replica.model()
    assert 30 <= int(refused.value.headers["retry-after"]) <= 38
    now = 100.0  # late: who knows
    with pytest.raises(UnavailableError) as refused:
        replica.model()
    assert int(refused.value.headers["retry-after-ms"]) <= 1250


async def test_stopping_during_a_restart_ends_it_and_tells_who_waits() -> None:
    engines = Engines()
    async with supervised(engines) as rooms:
        engines.allowed.clear()
        await rooms.kill()
        while engines.starts < 2:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(rooms.available())
        await asyncio.sleep(0)
        rooms.supervisor.stop()
        with pytest.raises(EngineDeadError):
            await waiting
        await rooms.supervisor.close()
        assert len(engines.made) == 1
        assert not rooms.ended.is_set()


async def test_a_start_under_way_when_the_program_ends_is_undone_before_it_does() -> None:
    engines = Engines()
    begun, undone = asyncio.Event(), asyncio.Event()

    async def start(config: EngineConfig, report: Any, name: str) -> LoadedModel:
        if not engines.made:
            return await engines(config, report, name)
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            for _ in range(5):  # as processes take their time to end
                await asyncio.sleep(0)
            undone.set()
            raise
        raise AssertionError

    async with supervised(start) as rooms:
        await rooms.kill()
        await begun.wait()
        rooms.supervisor.stop()
        await asyncio.sleep(0)
        await rooms.supervisor.close()
        assert undone.is_set()


async def test_an_engine_that_dies_while_the_program_ends_is_not_replaced() -> None:
    engines = Engines()
    async with supervised(engines) as rooms:
        rooms.supervisor.stop()
        await rooms.kill()
        with pytest.raises(EngineDeadError):
            await rooms.available()
        assert engines.starts == 1


async def test_an_embedder_comes_back_too() -> None:
    engine = {"runner": "pooling", "simulated": {"die_after_tokens": 10}}
    async with supervised(Engines(), engine=engine) as rooms:
        embedder = rooms.deployments.default.embedder()
        with pytest.raises(EngineDeadError):
            await embedder.embed("one", [Prompt([65] * 11)])
        await rooms.available()
        again = rooms.deployments.default.embedder()
        assert len(await again.embed("two", [Prompt([65] * 11)])) == 1


async def test_adapters_come_back_those_of_the_configuration_and_those_loaded_since(
    tmp_path: Path,
) -> None:
    fixed, later = make_adapter(tmp_path / "fixed"), make_adapter(tmp_path / "later")
    make_adapter(tmp_path / "gone")
    async with supervised(
        Engines(),
        adapters=(AdapterConfig(name="fixed", path=str(fixed)),),
        engine={"adapter_root": str(tmp_path), "max_adapters": 3},
    ) as rooms:
        await rooms.adapters.load("later", str(later), "model")
        await rooms.adapters.load("gone", "gone", "model")
        await rooms.adapters.unload("gone")
        await rooms.kill()
        await rooms.available()
        assert sorted(rooms.engine.adapters) == ["fixed", "later"]
        assert await complete(rooms.engine, 3, adapter="later")


async def test_an_adapter_unloaded_while_its_engine_was_away_does_not_come_back(
    tmp_path: Path,
) -> None:
    make_adapter(tmp_path / "one")
    engines = Engines()
    async with supervised(engines, engine={"adapter_root": str(tmp_path)}) as rooms:
        deployment = await rooms.adapters.load("one", "one", "model")
        deployment.enter()
        unloading = asyncio.create_task(rooms.adapters.unload("one"))
        await asyncio.sleep(0)
        engines.allowed.clear()
        await rooms.kill()
        while engines.starts < 2:
            await asyncio.sleep(0)
        deployment.leave()
        await unloading
        engines.allowed.set()
        await rooms.available()
        assert rooms.engine.adapters == ()


async def test_an_adapter_that_cant_be_loaded_again_is_served_no_more(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_adapter(tmp_path / name)
    engines = Engines()

    async def fewer(config: EngineConfig, report: Any, name: str) -> LoadedModel:
        room = 2 if not engines.starts else 1
        return await engines(config.model_copy(update={"max_adapters": room}), report, name)

    async with supervised(fewer, engine={"adapter_root": str(tmp_path)}) as rooms:
        for name in ("one", "two"):
            await rooms.adapters.load(name, name, "model")
        await rooms.kill()
        await rooms.available()
        assert rooms.engine.adapters == ("one",)
        assert [found.name for found in rooms.deployments] == ["model", "one"]


async def test_what_was_counted_before_a_death_is_not_forgotten() -> None:
    async with supervised(Engines()) as rooms:
        for _ in range(3):
            await complete(rooms.engine, 4)
            await rooms.kill()
            await rooms.available()
        await complete(rooms.engine, 2)
        assert rooms.replica.totals == (4 * 5, 3 * 4 + 2)
        stats = rooms.replica.stats()
        assert stats is not None
        assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (20, 14)


async def test_a_death_is_nobodys_but_the_engines_that_died() -> None:
    async with supervised(Engines()) as rooms:
        first = rooms.engine
        rooms.replica.lost(first)  # it lives
        assert rooms.replica.state == "ready"
        await rooms.kill()
        rooms.replica.lost(first)
        await rooms.available()
        second = rooms.engine
        rooms.replica.lost(first)  # told late
        assert rooms.engine is second


@given(served=st.lists(st.floats(0, 2 * SETTLED_S), max_size=40), most=st.integers(0, 6))
def test_only_so_many_restarts_in_a_row_each_after_a_longer_pause(
    served: list[float], most: int
) -> None:
    restarts = Restarts(HealthConfig(restarts=most, restart_pause_s=1))
    row: list[float] = []
    for seconds in served:
        if seconds >= SETTLED_S:
            row = []
        pause = restarts.next_pause(seconds)
        if pause is None:
            assert len(row) == most
            return
        row.append(pause)
        assert row == [min(2.0**number, 60.0) for number in range(len(row))]
        assert len(row) <= most
