"""Readiness by progress: what counts as stuck, and what never does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from engine.base import Activity, EngineStats, LoadedModel
from gateway.config import HealthConfig, ModelConfig
from gateway.deployments import Deployments
from gateway.lifecycle import Lifecycle, Pulse

HEALTH = HealthConfig(freeze_s=3, stall_s=60)
IDLE = EngineStats(0, 0, 0.0, 0, 0, 0.0, None)
BUSY = replace(IDLE, running=1, seconds_since_step=0.0)


@dataclass
class Machine:
    """An engine of which only its vital signs are there, and the clock on the wall."""

    now: float = 100.0
    cpu_s: float | None = 5.0
    stopped: bool = False
    figures: EngineStats = IDLE
    alive: bool = True

    def clock(self) -> float:
        return self.now

    def stats(self) -> EngineStats:
        return self.figures

    def activity(self) -> Activity | None:
        return None if self.cpu_s is None else Activity(self.cpu_s, self.stopped)


def watched(machine: Machine) -> Lifecycle:
    deployments = Deployments([ModelConfig(name="model")])
    deployments.replicas[0].loaded = cast(LoadedModel, machine)
    return Lifecycle(HEALTH, deployments, machine.clock)


async def live(
    lifecycle: Lifecycle, machine: Machine, seconds: float, *, cpu: float, steps: bool
) -> list[str | None]:
    """What is said of it each half second, while it uses `cpu` of each and makes steps or none."""
    said = []
    for _ in range(round(seconds / 0.5)):
        machine.now += 0.5
        if machine.cpu_s is not None:
            machine.cpu_s += cpu * 0.5
        since = 0.0 if steps else (machine.figures.seconds_since_step or 0.0) + 0.5
        machine.figures = replace(machine.figures, seconds_since_step=since)
        lifecycle.look()
        said.append(await lifecycle.not_ready_because())
    return said


async def test_an_engine_that_computes_is_ready_through_the_longest_step() -> None:
    machine = Machine(figures=BUSY)
    said = await live(watched(machine), machine, 59, cpu=0.1, steps=False)
    assert set(said) == {None}


async def test_an_engine_that_hangs_with_work_inside_is_not_ready_within_five_seconds() -> None:
    machine = Machine(figures=BUSY)
    lifecycle = watched(machine)
    assert set(await live(lifecycle, machine, 10, cpu=1, steps=True)) == {None}
    said = await live(lifecycle, machine, 5, cpu=0, steps=False)
    assert said[-1] == "stalled"
    assert said[:5] == [None] * 5  # a moment's silence is nothing yet
    said = await live(lifecycle, machine, 5, cpu=1, steps=True)
    assert set(said) == {None}


async def test_work_that_only_waits_for_an_engine_that_hangs_makes_it_stuck_too() -> None:
    machine = Machine(figures=replace(BUSY, running=0, waiting=3))
    said = await live(watched(machine), machine, 8, cpu=0, steps=False)
    assert said[-1] == "stalled"


async def test_an_engine_that_computes_for_ever_without_a_step_is_stuck_at_last() -> None:
    machine = Machine(figures=BUSY)
    said = await live(watched(machine), machine, 62, cpu=1, steps=False)
    assert (said[100], said[-1]) == (None, "stalled")


async def test_without_work_silence_is_rest() -> None:
    machine = Machine()
    said = await live(watched(machine), machine, 120, cpu=0, steps=False)
    assert set(said) == {None}


async def test_an_engine_whose_processes_cant_be_seen_is_judged_by_its_steps_alone() -> None:
    machine = Machine(figures=BUSY, cpu_s=None)
    said = await live(watched(machine), machine, 59, cpu=0, steps=False)
    assert set(said) == {None}


async def test_an_engine_held_by_a_signal_is_not_ready_from_then_on_until_it_goes_on() -> None:
    machine = Machine()
    lifecycle = watched(machine)
    machine.stopped = True
    assert await lifecycle.not_ready_because() == "stalled"
    assert await lifecycle.alive()
    machine.stopped = False
    assert await lifecycle.not_ready_because() is None


async def test_an_engine_that_took_anothers_place_is_judged_by_its_own_time() -> None:
    machine = Machine(figures=BUSY)
    lifecycle = watched(machine)
    await live(lifecycle, machine, 10, cpu=1, steps=True)
    machine.cpu_s = 0.0
    said = await live(lifecycle, machine, 20, cpu=0.5, steps=False)
    assert set(said) == {None}


@given(
    shares=st.lists(st.floats(0.03, 8), min_size=1, max_size=60),
    gaps=st.lists(st.floats(0.01, 2), min_size=60, max_size=60),
)
def test_whatever_computes_is_never_silent(shares: list[float], gaps: list[float]) -> None:
    pulse, now, cpu_s = Pulse(3.0), 0.0, 0.0
    for share, gap in zip(shares, gaps, strict=False):
        now, cpu_s = now + gap, cpu_s + share * gap
        assert not pulse.silent(now, cpu_s)
        pulse.look(now, cpu_s)


@given(
    gaps=st.lists(st.floats(0.05, 0.5), min_size=90, max_size=90),
    before=st.integers(0, 40),
)
def test_whatever_stops_computing_is_silent_within_the_window_and_a_look(
    gaps: list[float], before: int
) -> None:
    pulse, now, cpu_s = Pulse(3.0), 0.0, 0.0
    stopped: float | None = None
    for number, gap in enumerate(gaps):
        now += gap
        if number <= before:
            cpu_s += gap
            stopped = now
        assert stopped is not None
        if now - stopped > 3.5:
            assert pulse.silent(now, cpu_s)
        pulse.look(now, cpu_s)


async def test_the_worst_of_several_models_is_why_it_is_not_ready() -> None:
    deployments = Deployments([ModelConfig(name=name) for name in "abc"])
    lifecycle = Lifecycle(HEALTH, deployments)
    first, second, third = deployments.replicas
    assert await lifecycle.not_ready_because() == "loading"
    model: Any = Machine()
    first.loaded = second.loaded = third.loaded = model
    assert await lifecycle.not_ready_because() is None
    third.loaded = None
    assert await lifecycle.not_ready_because() == "restarting"
    assert await lifecycle.alive()
    second.give_up()
    assert await lifecycle.not_ready_because() == "dead"
    assert await lifecycle.states() == {"a": "ready", "b": "dead", "c": "restarting"}
    assert not await lifecycle.alive()
