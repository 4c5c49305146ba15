"""What those see who ask for a place."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gateway.errors import APIError, DeadlineError, UnavailableError
from tests.admission.world import REPLICA, World, demand, end_all, virtually


@virtually
async def test_a_request_goes_at_once_where_there_is_room(world: World) -> None:
    one = world.ask()
    assert one.turn is None
    assert world.admission.inside == 1
    one.end()
    assert world.admission.inside == 0


@virtually
async def test_the_rest_waits_and_goes_as_places_become_free(world: World) -> None:
    asked = [world.ask() for _ in range(4)]
    assert [one.going for one in asked] == [True, True, False, False]
    assert world.admission.queued == 2
    await asyncio.sleep(3)
    asked[1].end()
    assert [one.going for one in asked] == [True, True, True, False]
    assert asked[2].permit.queued_s == 3
    assert asked[0].permit.queued_s == 0
    end_all(*asked)
    assert world.admission.queued == 0


@virtually
async def test_a_margin_waits_inside_of_the_engine(world: World) -> None:
    world.set_up(seats=4, margin=0.3)
    asked = [world.ask() for _ in range(8)]
    assert sum(one.going for one in asked) == 6
    end_all(*asked)


@virtually
async def test_who_has_little_running_takes_a_spare_seat_in_a_full_engine(world: World) -> None:
    world.set_up(seats=8, spare=2)
    flood = [world.ask("flood") for _ in range(20)]
    quiet = [world.ask(tenant) for tenant in ("one", "two", "three")]
    assert [one.going for one in quiet] == [True, True, False]
    # A place that becomes free first pays back a spare seat.
    flood[0].end()
    assert quiet[2].going
    flood[1].end()
    assert sum(one.going for one in flood) == 8
    end_all(*flood, *quiet)


@virtually
async def test_who_has_little_running_takes_a_spare_seat_right_after_it_was_served(
    world: World,
) -> None:
    world.set_up(seats=16, spare=4)
    flood = [world.ask("flood") for _ in range(20)]
    first = world.ask("quiet", prompt_tokens=20)
    second = world.ask("quiet", prompt_tokens=20)
    assert [first.going, second.going] == [True, True]
    # But not for as long as nobody else gets anything.
    greedy = world.ask("quiet", prompt_tokens=20_000)
    assert greedy.going
    last = world.ask("quiet")
    assert last.waiting
    end_all(last, *flood, first, second, greedy)


@virtually
async def test_spare_seats_are_for_less_than_half_of_a_share_by_weight(world: World) -> None:
    world.set_up(seats=8, spare=8)
    flood = [world.ask("flood", weight=3) for _ in range(20)]
    quiet = []
    for _ in range(4):  # each time its turn has come: the others have had enough meanwhile
        quiet.append(world.ask("quiet"))
        flood[0].produced += 100
        await asyncio.sleep(1)
        quiet[-1].permit.started(0)
        world.admission.pump(world.admission._lines[REPLICA])
    assert [one.going for one in quiet] == [True, False, False, False]
    end_all(*flood, *quiet)


@virtually
async def test_who_could_take_a_spare_seat_is_not_refused_for_a_full_queue(world: World) -> None:
    world.set_up(seats=2, spare=1, max_queued=0)
    flood = [world.ask("flood") for _ in range(2)]
    quiet = world.ask("quiet")
    assert quiet.going
    with pytest.raises(APIError):
        world.ask("flood")
    end_all(*flood, quiet)


@virtually
async def test_batch_requests_take_no_spare_seats(world: World) -> None:
    world.set_up(seats=2, spare=2)
    flood = [world.ask("flood") for _ in range(2)]
    night = world.ask("night", priority="batch")
    assert not night.going
    end_all(*flood, night)


@virtually
async def test_copies_of_the_model_have_seats_of_their_own(world: World) -> None:
    world.set_up(seats=2, copies=3)
    asked = [world.ask() for _ in range(8)]
    assert sum(one.going for one in asked) == 6
    end_all(*asked)


@virtually
async def test_tenants_take_turns(world: World) -> None:
    running = [world.ask("flood"), world.ask("flood")]
    flood = [world.ask("flood") for _ in range(6)]
    light = world.ask("light")
    for one in running:
        one.permit.started(0)
        one.produced = 5
        one.end()
    assert light.going
    assert sum(one.going for one in flood) == 1
    end_all(light, *flood)


@virtually
async def test_what_was_produced_since_counts_when_it_is_decided(world: World) -> None:
    a, b = world.ask("a"), world.ask("b")
    waiting = {name: world.ask(name) for name in "ab"}
    await asyncio.sleep(1)
    a.produced, b.produced = 100, 1
    third = world.ask("c")
    await asyncio.sleep(1)
    b.end()
    assert waiting["b"].going or third.going
    assert not waiting["a"].going
    end_all(a, third, *waiting.values())


@virtually
async def test_batch_waits_while_anything_online_does(world: World) -> None:
    running = [world.ask(), world.ask()]
    batch = world.ask("b", priority="batch")
    online = [world.ask() for _ in range(3)]
    for one in [*running, *online[:2]]:
        one.end()
    assert online[2].going
    assert batch.going
    end_all(batch, online[2])


@virtually
async def test_a_tenant_has_no_more_in_the_engine_than_its_cap(world: World) -> None:
    world.set_up(seats=4, max_running_per_tenant=2)
    mine = [world.ask("a") for _ in range(4)]
    assert [one.going for one in mine] == [True, True, False, False]
    other = world.ask("b")
    assert other.turn is None
    mine[0].end()
    assert [one.going for one in mine] == [True, True, True, False]
    end_all(other, *mine)


@virtually
async def test_a_request_of_more_sequences_than_places_goes_where_a_seat_is_free(
    world: World,
) -> None:
    small = [world.ask(), world.ask()]
    large, behind = world.ask(sequences=50), world.ask()
    assert large.waiting
    small[0].end()
    small[1].end()
    assert large.going
    assert not behind.going
    end_all(large, behind)


@virtually
async def test_no_seat_is_empty_because_the_next_request_is_large(world: World) -> None:
    world.set_up(seats=4, margin=0.25)
    small = [world.ask() for _ in range(5)]
    large = world.ask(sequences=4)
    small[0].end()
    assert large.waiting
    small[1].end()
    assert large.going
    end_all(large, *small)


@virtually
async def test_nothing_starts_above_the_kv_ceiling_until_it_is_below(world: World) -> None:
    world.set_up(seats=4, kv_ceiling=0.5)
    running = world.ask()
    world.model.usage = 0.6
    await asyncio.sleep(1)
    waiting = world.ask()
    await asyncio.sleep(1)
    assert waiting.waiting
    world.model.usage = 0.4
    await asyncio.sleep(0.1)
    assert waiting.going
    end_all(running, waiting)


@virtually
async def test_the_kv_cache_never_keeps_an_engine_idle(world: World) -> None:
    world.set_up(seats=4, kv_ceiling=0.5)
    running = world.ask()
    world.model.usage = 0.9
    await asyncio.sleep(1)
    waiting = [world.ask(), world.ask()]
    running.end()
    assert [one.going for one in waiting] == [True, False]
    end_all(*waiting)


@virtually
async def test_a_full_kv_cache_is_forgotten_with_the_request_it_kept(world: World) -> None:
    world.set_up(seats=4, kv_ceiling=0.5)
    end_all(*await world.run_full())
    running = world.ask()
    before = world.admission.stats(REPLICA).predicted_ttft_s
    world.model.usage = 0.9
    await asyncio.sleep(1)
    late = world.enter()
    with pytest.raises(DeadlineError):
        late.request(demand(deadline=world.loop.time()))
    late.release()
    assert world.admission.stats(REPLICA).predicted_ttft_s == before
    running.end()


@virtually
async def test_the_engine_is_looked_at_no_more_once_nobody_waits(world: World) -> None:
    world.set_up(seats=4, kv_ceiling=0.5)
    running = world.ask()
    world.model.usage = 0.9
    await asyncio.sleep(1)
    waiting = world.ask()
    assert waiting.turn is not None
    waiting.turn.cancel()
    await asyncio.sleep(0)
    # `virtually` finds the timer if there is one.
    waiting.end()
    running.end()


@virtually
async def test_prompts_that_were_sent_take_room_before_the_engine_says_so(world: World) -> None:
    world.set_up(seats=8, kv_tokens=1000, kv_ceiling=0.9)
    asked = [world.ask(prompt_tokens=300) for _ in range(4)]
    assert sum(one.going for one in asked) == 3
    world.model.usage = 0.5
    await asyncio.sleep(1)
    for one in asked[:3]:
        one.permit.started(0)
    await asyncio.sleep(1)
    assert asked[3].going
    end_all(*asked)


@virtually
async def test_to_cancel_the_turn_is_to_leave_the_queue(world: World) -> None:
    asked = [world.ask() for _ in range(4)]
    turn = asked[2].turn
    assert turn is not None
    turn.cancel()
    await asyncio.sleep(0)
    assert world.admission.queued == 1
    asked[0].end()
    assert asked[3].going
    end_all(*asked)


@virtually
async def test_a_place_is_not_given_to_who_has_just_cancelled(world: World) -> None:
    asked = [world.ask() for _ in range(4)]
    turn = asked[2].turn
    assert turn is not None
    turn.cancel()
    asked[0].end()  # before the loop has told of it
    assert asked[3].going
    await asyncio.sleep(0)
    assert world.admission.stats(REPLICA).running == 2
    end_all(*asked)


@virtually
async def test_who_is_cancelled_after_his_turn_came_gives_the_place_back(world: World) -> None:
    running = [world.ask(), world.ask()]
    permit = world.enter()

    async def holder() -> None:
        try:
            turn = permit.request(demand())
            assert turn is not None
            await turn
        finally:
            permit.release()

    task = asyncio.ensure_future(holder())
    await asyncio.sleep(0)
    running[0].end()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.admission.stats(REPLICA).running == 1
    running[1].end()


@virtually
async def test_a_permit_can_be_released_in_any_state_and_more_than_once(world: World) -> None:
    running = [world.ask(), world.ask()]
    rendering, waiting = world.enter(), world.ask()
    for _ in range(2):
        rendering.release()
        waiting.end()
        assert world.admission.inside == 2
    for _ in range(2):
        end_all(*running)
    stats = world.admission.stats(REPLICA)
    assert (stats.queued, stats.queued_tokens, stats.running) == (0, 0, 0)
    assert waiting.turn is not None
    assert waiting.turn.cancelled()


@virtually
async def test_idle_is_when_nobody_holds_a_permit(world: World) -> None:
    permit = world.enter()
    idle = asyncio.ensure_future(world.admission.idle())
    await asyncio.sleep(1)
    assert not idle.done()
    permit.release()
    await idle


@virtually
async def test_the_queue_waits_for_an_engine_that_is_away(world: World) -> None:
    running = [world.ask(), world.ask()]
    waiting = [world.ask(), world.ask()]
    world.away()
    end_all(*running)
    await asyncio.sleep(10)
    assert [one.waiting for one in waiting] == [True, True]
    late = world.ask()
    assert late.waiting
    world.serve()
    assert [one.going for one in (*waiting, late)] == [True, True, False]
    end_all(late, *waiting)


@virtually
async def test_who_has_to_start_again_has_his_old_place(world: World) -> None:
    asked = [world.ask() for _ in range(4)]
    world.away()
    for one in asked[1::-1]:
        one.again()
    world.serve()
    assert [one.going for one in asked] == [True, True, False, False]
    end_all(*asked)


@virtually
async def test_who_comes_back_is_not_passed_by_others_meanwhile(world: World) -> None:
    asked = [world.ask() for _ in range(3)]
    asked[0].again()
    assert [one.going for one in asked] == [True, True, False]
    end_all(*asked)


@virtually
async def test_who_comes_back_is_let_in_though_the_queue_is_full(world: World) -> None:
    world.set_up(seats=1, max_queued=1)
    running, waiting = world.ask(), world.ask()
    world.away()
    running.again()
    assert running.waiting
    world.serve()
    assert running.going
    assert waiting.waiting
    end_all(running, waiting)


@virtually
async def test_a_place_that_is_given_back_and_not_wanted_again_goes_to_the_next(
    world: World,
) -> None:
    world.set_up(seats=1)
    running, waiting = world.ask(), world.ask()
    running.permit.requeue()
    await asyncio.sleep(0)
    assert waiting.going
    end_all(running, waiting)


@virtually
async def test_a_restart_is_not_charged_to_the_tenant(world: World) -> None:
    world.set_up(seats=1)
    unlucky, other = world.ask("a", prompt_tokens=50), world.ask("b", prompt_tokens=20)
    for _ in range(3):
        world.away()
        unlucky.again()
        world.serve()
        await asyncio.sleep(1)
    assert unlucky.going
    more = [world.ask("a", prompt_tokens=1), world.ask("b", prompt_tokens=1)]
    for one in (unlucky, other):
        assert one.going
        one.permit.started(0)
        one.end()
    assert [one.going for one in more] == [True, False]
    end_all(*more)


@virtually
async def test_everyone_who_waits_can_be_refused(world: World) -> None:
    running = [world.ask(), world.ask()]
    waiting, rendering = [world.ask(), world.ask()], world.enter()
    gone = UnavailableError("It won't come back.", code="engine_dead", retry_after_s=10)
    world.admission.refuse_queued(REPLICA, gone)
    for one in waiting:
        error = one.refused
        assert isinstance(error, UnavailableError)
        assert error.code == "engine_dead"
        assert "retry-after" in error.headers
    for attempt in (lambda: rendering.request(demand()), world.enter):
        with pytest.raises(UnavailableError):
            attempt()
    rendering.release()
    end_all(*running, *waiting)
    world.serve()
    again = world.ask()
    assert again.going
    again.end()


@virtually
async def test_a_refusal_that_nobody_hears_is_no_error(world: World) -> None:
    running = [world.ask(), world.ask()]
    waiting = world.ask()
    world.admission.refuse_queued(REPLICA, APIError("gone"))
    end_all(waiting, *running)
    del waiting
    gc.collect()
    # `virtually` hears what the loop complains of.


@virtually
async def test_a_permit_that_runs_asks_for_no_second_place(world: World) -> None:
    one = world.ask()
    with pytest.raises(RuntimeError):
        one.permit.request(demand())
    one.end()
    with pytest.raises(RuntimeError):
        one.permit.request(demand())


@virtually
async def test_a_request_whose_deadline_has_passed_is_refused_at_arrival(world: World) -> None:
    await asyncio.sleep(5)
    with pytest.raises(DeadlineError) as caught:
        world.ask(deadline=4.0)
    assert caught.value.status == 408
    assert caught.value.code == "request_timeout"
    assert caught.value.headers["x-should-retry"] == "false"


@virtually
async def test_a_request_that_waits_is_refused_at_its_deadline(world: World) -> None:
    running = [world.ask(), world.ask()]
    waiting = world.ask(deadline=7.0)
    assert waiting.turn is not None
    with pytest.raises(DeadlineError):
        await waiting.turn
    assert world.loop.time() == 7
    assert world.admission.queued == 0
    end_all(waiting, *running)


@virtually
async def test_a_deadline_is_looked_at_again_when_its_turn_comes(world: World) -> None:
    world.set_up(seats=1)
    for tokens in (100, 1000, 100, 1000, 100, 1000):
        one = world.ask(prompt_tokens=tokens)
        await asyncio.sleep(tokens / 100)
        one.permit.started(0)
        one.end()
    now = world.loop.time()
    running = world.ask()
    # Ten seconds are needed to read its prompt.
    waiting = world.ask(prompt_tokens=1000, deadline=now + 20)
    other = world.ask()
    await asyncio.sleep(11)
    running.end()
    assert isinstance(waiting.refused, DeadlineError)
    assert other.going
    end_all(waiting, other)


@virtually
async def test_a_deadline_that_is_expected_to_be_missed_is_refused_at_arrival(
    world: World,
) -> None:
    warm = await world.run_full(seconds=2.0)  # a place each second, and one waits
    now = world.loop.time()
    with pytest.raises(DeadlineError):
        world.ask("warm", deadline=now + 1.5)
    patient = world.ask("warm", deadline=now + 4)
    assert patient.waiting
    end_all(patient, *warm)


@virtually
async def test_nobody_is_refused_for_a_prediction_before_anything_was_measured(
    world: World,
) -> None:
    world.set_up(max_ttft_s=0.001)
    asked = [world.ask(deadline=1000.0) for _ in range(50)]
    assert world.admission.stats(REPLICA).predicted_ttft_s is None
    end_all(*asked)
