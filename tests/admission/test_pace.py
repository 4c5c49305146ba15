"""Prompts go no faster than they are read where tenants share an engine."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.pace import MOST_S, SHARED_S, SLACK_S, Pace
from tests.admission.world import REPLICA, Asked, World, end_all, virtually


async def taught(world: World, **config: object) -> None:
    """Set up eight seats, and have it be seen that a step takes 50 ms, and a millisecond more for
    each prompt token."""
    world.set_up(8, **config)  # type: ignore[arg-type]  # as set_up has it
    for number in range(12):
        tokens = 100 + 100 * (number % 2)
        one = world.ask("a", prompt_tokens=tokens)
        await asyncio.sleep(0.05 + 0.001 * tokens)
        one.permit.started(0)
        one.end()
        await asyncio.sleep(1.0)


def going(asked: list[Asked]) -> int:
    return sum(one.going for one in asked)


@virtually
async def test_prompts_of_one_tenant_go_at_once(world: World) -> None:
    await taught(world)
    asked = [world.ask("a", prompt_tokens=200) for _ in range(4)]
    assert going(asked) == 4
    end_all(*asked)


@virtually
async def test_prompts_go_as_fast_as_they_are_read_where_another_tenant_was_seen(
    world: World,
) -> None:
    await taught(world)
    quiet = world.ask("quiet", prompt_tokens=1)
    flood = [world.ask("a", prompt_tokens=80) for _ in range(6)]
    seen = []
    for _ in range(7):
        seen.append(going(flood))
        await asyncio.sleep(0.081)
    # Half of the seats are its own in any case.
    assert seen == [4, 4, 4, 4, 5, 6, 6]
    end_all(quiet, *flood)


@virtually
async def test_who_has_little_running_does_not_wait_for_the_prompts_of_others(
    world: World,
) -> None:
    await taught(world)
    flood = [world.ask("a", prompt_tokens=200) for _ in range(6)]
    quiet = world.ask("quiet", prompt_tokens=200)
    assert quiet.going
    end_all(quiet, *flood)


@virtually
async def test_prompts_that_are_cached_take_no_time_to_be_read(world: World) -> None:
    await taught(world)
    for _ in range(200):  # a conversation that goes on, seen often enough
        one = world.ask("a", prompt_tokens=200)
        await asyncio.sleep(0.05)
        one.permit.started(200)
        one.end()
    quiet = world.ask("quiet", prompt_tokens=1)
    flood = [world.ask("a", prompt_tokens=200) for _ in range(6)]
    await asyncio.sleep(0.05)
    assert going(flood) == 6
    end_all(quiet, *flood)


@virtually
async def test_nobody_is_refused_because_he_is_held_back(world: World) -> None:
    await taught(world, max_queued=0, max_queued_per_tenant=1, max_queued_tokens_per_tenant=1)
    quiet = world.ask("quiet", prompt_tokens=1)
    flood = [world.ask("a", prompt_tokens=80) for _ in range(7)]
    assert going(flood) == 4
    await asyncio.sleep(1.0)
    assert going(flood) == 7
    end_all(quiet, *flood)


@virtually
async def test_prompts_that_are_gone_hold_nobody_back(world: World) -> None:
    await taught(world)
    for _ in range(50):
        world.ask("b", prompt_tokens=100).end()
    running = world.ask("quiet", prompt_tokens=1)
    night = world.ask("c", priority="batch")
    await asyncio.sleep(0.01)
    assert night.going
    end_all(running, night)


@virtually
async def test_batch_is_held_back_by_online_prompts(world: World) -> None:
    await taught(world)
    day = world.ask("b", prompt_tokens=80)
    night = world.ask("c", priority="batch")
    assert going([night]) == 0
    await asyncio.sleep(0.1)
    assert going([night]) == 1
    end_all(day, night)


@virtually
async def test_who_is_held_back_goes_on_waiting_when_the_engine_dies(world: World) -> None:
    await taught(world)
    day = world.ask("b", prompt_tokens=80)
    night = world.ask("c", priority="batch")
    world.away()
    day.end()
    await asyncio.sleep(1.0)
    assert night.waiting
    world.serve()
    assert night.going
    end_all(night)


@virtually
async def test_an_idle_engine_keeps_nobody_waiting(world: World) -> None:
    await taught(world)
    world.ask("quiet", prompt_tokens=1).end()
    for _ in range(3):
        one = world.ask("a", prompt_tokens=4000, priority="batch")
        assert one.going
        one.end()


@virtually
async def test_who_waits_for_the_pace_can_leave(world: World) -> None:
    await taught(world)
    quiet = world.ask("quiet", prompt_tokens=1)
    flood = [world.ask("a", prompt_tokens=200) for _ in range(6)]
    for one in flood:
        if one.waiting:
            assert one.turn is not None
            one.turn.cancel()
    await asyncio.sleep(0)
    assert world.admission.stats(REPLICA).queued == 0
    end_all(quiet, *flood)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, MOST_S)), max_size=50))
def test_in_any_time_no_more_is_sent_than_can_be_read_and_one_prompt(
    steps: list[tuple[float, float]],
) -> None:
    pace, now = Pace(), 0.0
    pace.seen("a", now)
    pace.seen("b", now)
    sent: list[tuple[float, float]] = []
    for passed, reading in steps:
        now = min(now + passed, SHARED_S - 1)
        if pace.wait(now) == 0:
            pace.sent(reading, now)
            sent.append((now, reading))
    for index, (begun, _) in enumerate(sent):
        for last, (ended, _) in enumerate(sent[index:], index):
            before = sum(reading for _, reading in sent[index:last])
            assert before <= ended - begun + SLACK_S + 1e-9


def test_another_tenant_is_forgotten_after_a_while() -> None:
    pace = Pace()
    pace.seen("a", 0.0)
    pace.seen("b", 1.0)
    for _ in range(1000):
        pace.sent(MOST_S, 2.0)
    assert pace.wait(SHARED_S - 1) > 0
    assert pace.wait(SHARED_S + 2) == 0
    # Who comes back after an hour finds nobody.
    pace.seen("a", 3600.0)
    pace.sent(MOST_S, 3600.0)
    assert pace.wait(3600.0) == 0


def test_a_long_prompt_holds_others_back_no_longer_than_a_few_steps_take() -> None:
    pace = Pace()
    pace.seen("a", 0.0)
    pace.seen("b", 0.0)
    pace.sent(60.0, 1.0)
    assert pace.wait(1.0) == pytest.approx(MOST_S - SLACK_S)
