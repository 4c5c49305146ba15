"""Who is refused when there is too much, and what he is told."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway.admission import Permit
from gateway.errors import OverloadedError
from tests.admission.world import REPLICA, Asked, World, demand, virtually


def refused(world: World, tenant: str = "a", *, returning: bool | None = None) -> float:
    """Enter in vain; returns in how many seconds to come back, at least."""
    with pytest.raises(OverloadedError) as caught:
        world.enter(tenant, returning=returning)
    assert caught.value.status == 429
    assert int(caught.value.headers["retry-after"]) >= 1
    return int(caught.value.headers["retry-after-ms"]) / 1000 / 1.25


def end_all(*asked: Asked | Permit) -> None:
    for one in asked:
        (one if isinstance(one, Permit) else one.permit).release()


@virtually
async def test_the_gateway_takes_so_many_requests_at_once(world: World) -> None:
    world.set_up(max_requests=3)
    permits = [world.enter() for _ in range(3)]
    assert refused(world) > 0
    permits[0].release()
    end_all(world.enter(), *permits)


@virtually
async def test_so_many_may_wait(world: World) -> None:
    world.set_up(max_queued=3)
    asked = [world.ask() for _ in range(5)]
    assert sum(one.waiting for one in asked) == 3
    refused(world)
    asked[0].end()
    asked.append(world.ask())
    assert sum(one.waiting for one in asked) == 3
    end_all(*asked)


@virtually
async def test_without_a_queue_what_cannot_go_at_once_is_refused(world: World) -> None:
    world.set_up(max_queued=0)
    asked = [world.ask(), world.ask()]
    refused(world)
    end_all(*asked)
    again = world.ask()
    assert again.going
    end_all(again)


@virtually
async def test_requests_that_are_rendered_count_before_they_wait(world: World) -> None:
    world.set_up(max_queued=3)
    permits = [world.enter() for _ in range(5)]
    refused(world)
    turns = [permit.request(demand()) for permit in permits]
    assert turns.count(None) == 2
    end_all(*permits)


@virtually
async def test_so_many_of_one_tenant_may_wait_and_others_still_come_in(world: World) -> None:
    world.set_up(max_queued_per_tenant=2)
    asked = [world.ask("flood") for _ in range(4)]
    refused(world, "flood")
    other = world.ask("light")
    assert other.waiting
    end_all(other, *asked)


@virtually
async def test_the_tokens_that_wait_are_bounded(world: World) -> None:
    world.set_up(max_queued_tokens=100, max_queued_tokens_per_tenant=80)
    running = [world.ask(), world.ask()]
    waiting = [world.ask("a", prompt_tokens=40) for _ in range(2)]
    for tenant, tokens in (("a", 1), ("b", 61), ("c", 81)):
        permit = world.enter(tenant)
        with pytest.raises(OverloadedError):
            permit.request(demand(tenant, prompt_tokens=tokens))
        permit.release()
    waiting.append(world.ask("b", prompt_tokens=20))
    assert world.admission.stats(REPLICA).queued_tokens == 100
    end_all(*running, *waiting)


@virtually
async def test_a_full_queue_is_open_to_who_has_less_waiting(world: World) -> None:
    world.set_up(max_queued=6)
    running = [world.ask(), world.ask()]
    floods = [world.ask(name) for name in ("x", "y") for _ in range(3)]
    light = world.ask("light")
    assert light.waiting
    assert [isinstance(one.refused, OverloadedError) for one in floods] == [
        False, False, True, False, False, False,
    ]  # fmt: skip
    refused(world, "y")
    end_all(light, *running, *floods)


@virtually
async def test_a_full_queue_is_open_to_online_while_batch_waits(world: World) -> None:
    world.set_up(max_queued=3)
    running = [world.ask(), world.ask()]
    batch = [world.ask("b", priority="batch") for _ in range(3)]
    online = [world.ask("a") for _ in range(3)]
    assert all(one.waiting for one in online)
    assert all(isinstance(one.refused, OverloadedError) for one in batch)
    end_all(*running, *batch, *online)


@virtually
async def test_long_prompts_make_room_for_a_tenant_with_fewer_tokens(world: World) -> None:
    world.set_up(max_queued_tokens=100)
    running = [world.ask(), world.ask()]
    long = [world.ask("long", prompt_tokens=45) for _ in range(2)]
    short = world.ask("short", prompt_tokens=20)
    assert short.waiting
    assert isinstance(long[1].refused, OverloadedError)
    assert long[0].waiting
    end_all(short, *running, *long)


@virtually
async def test_a_full_queue_refuses_nobody_who_would_not_wait(world: World) -> None:
    world.set_up(seats=4, max_running_per_tenant=2, max_queued=2)
    capped = [world.ask("capped") for _ in range(4)]
    permit = world.enter("other")
    assert permit.request(demand("other")) is None
    assert [one.refused for one in capped] == [None] * 4
    end_all(permit, *capped)


@virtually
async def test_retry_after_is_when_a_place_is_expected_one_after_the_other(world: World) -> None:
    world.set_up(max_queued=1)
    warm = await world.run_full(seconds=4.0)  # a place every two seconds
    told = [refused(world, "warm") for _ in range(5)]
    for number, seconds in enumerate(told, start=1):
        assert 0.75 * 2 * number <= seconds <= 1.05 * 2 * number
    end_all(*warm)


@virtually
async def test_retry_after_is_never_over_a_minute(world: World) -> None:
    world.set_up(max_queued=1)
    warm = await world.run_full(seconds=40.0)
    assert all(refused(world, "warm") * 1.25 <= 60 for _ in range(20))
    end_all(*warm)


@virtually
async def test_who_obeys_retry_after_finds_a_place(world: World) -> None:
    world.set_up(max_queued=8)
    asked = await world.run_full(seconds=1.0)
    asked += [world.ask("warm") for _ in range(7)]
    admitted, came = 0, 0

    async def engine() -> None:
        while True:
            await asyncio.sleep(0.5)
            going = [one for one in asked if one.going]
            asked.remove(going[0])
            going[0].end()

    async def fresh() -> None:  # ten times what is served
        while True:
            await asyncio.sleep(0.05)
            with suppress(OverloadedError):
                asked.append(Asked(world.enter("warm", returning=False), demand("warm")))

    async def obedient() -> None:
        nonlocal admitted, came
        wait = refused(world, "warm", returning=False) * 1.25
        await asyncio.sleep(wait)
        came += 1
        with suppress(OverloadedError):
            asked.append(Asked(world.enter("warm", returning=True), demand("warm")))
            admitted += 1

    around = [asyncio.ensure_future(engine()), asyncio.ensure_future(fresh())]
    clients = []
    for _ in range(20):
        await asyncio.sleep(1.3)
        clients.append(asyncio.ensure_future(obedient()))
    await asyncio.gather(*clients)
    for task in around:
        task.cancel()
    assert came == 20
    assert admitted >= 16
    end_all(*asked)


@virtually
async def test_places_are_not_held_for_clients_who_never_come_back(world: World) -> None:
    world.set_up(max_queued=4)
    asked = await world.run_full(seconds=1.0)
    full = 0
    for _ in range(400):
        for _ in range(10):
            with suppress(OverloadedError):
                asked.append(world.ask("warm"))
        await asyncio.sleep(0.5)
        going = [one for one in asked if one.going]
        asked.remove(going[0])
        going[0].end()
        full += world.admission.queued >= 3
    assert full > 300
    end_all(*asked)


@virtually
async def test_what_is_expected_to_wait_too_long_is_refused_before_it_is_rendered(
    world: World,
) -> None:
    world.set_up(max_ttft_s=5.0)
    asked = await world.run_full(seconds=2.0)  # a place each second
    with suppress(OverloadedError):
        for _ in range(20):
            asked.append(world.ask("warm"))
    with pytest.raises(OverloadedError, match="limit is 5 s"):
        world.enter("warm")
    assert 4 <= world.admission.queued <= 6
    light = world.ask("light")  # which is next
    batch = world.ask("warm", priority="batch")
    assert light.waiting
    assert batch.waiting
    end_all(light, batch, *asked)


@virtually
async def test_the_prediction_is_what_happens(world: World) -> None:
    asked = await world.run_full(seconds=2.0)
    asked += [world.ask("warm") for _ in range(9)]
    found = world.admission.stats(REPLICA)
    assert found.predicted_ttft_s is not None
    assert found.requests_per_s == pytest.approx(1.0, rel=0.1)
    last, began = asked[-1], world.loop.time()
    while not last.going:
        await asyncio.sleep(1.0)
        running = next(one for one in asked if one.going)
        asked.remove(running)
        running.end()
    assert last.permit.queued_s == world.loop.time() - began
    # It is told for one more who would come behind it.
    assert found.predicted_ttft_s == pytest.approx(last.permit.queued_s + 1, rel=0.15)
    end_all(*asked)


@virtually
async def test_an_outage_makes_the_engine_look_no_slower(world: World) -> None:
    asked = await world.run_full(seconds=2.0)
    before = world.admission.stats(REPLICA).requests_per_s
    world.away()
    assert world.admission.stats(REPLICA).predicted_ttft_s is None
    await asyncio.sleep(600)
    world.serve()
    assert world.admission.stats(REPLICA).requests_per_s == pytest.approx(before)
    end_all(*asked)
