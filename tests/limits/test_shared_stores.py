"""The stores of shared limits: the state database (SQLite, PostgreSQL) and Redis, for real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from gateway.config import LimitsConfig
from gateway.limits import SharedLimits, shared_limits
from gateway.limits.shared import Ask, Counter, Grant, Lease, decide
from gateway.store.database import Database

LONG_S = 60.0
Open = Callable[..., Awaitable[SharedLimits]]


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Open the same store as another gateway would."""
    share, state = "state", f"sqlite:///{tmp_path}/state.db"
    if request.param == "postgresql":
        state = request.getfixturevalue("postgres_url")
    elif request.param == "redis":
        share = request.getfixturevalue("redis_url")
    async with AsyncExitStack() as stack:

        async def opened(lease_s: float = LONG_S) -> SharedLimits:
            database = Database(state)
            stack.push_async_callback(database.close)
            found = shared_limits(LimitsConfig(share=share, lease_s=lease_s), database)
            assert found is not None
            stack.push_async_callback(found.close)
            await found.open()
            return found

        yield opened


def ask(**fields: object) -> Ask:
    given = {"account": "team:t", "kind": "tokens:total", "limit": 100, "slice": 20, **fields}
    return Ask(**given)  # type: ignore[arg-type]


async def test_what_one_gateway_takes_another_lacks(connect: Open) -> None:
    one, other = await connect(), await connect()
    [first] = await one.lease(1, [ask(needs=(70,), more=False)])
    [second] = await other.lease(1, [ask(needs=(40, 30), more=False)])
    assert first.granted == (True,)
    assert second.granted == (False, True)
    [third] = await one.lease(2, [ask(back=50, more=False)])
    assert third.left == 50


async def test_the_answers_are_in_the_order_of_the_asks(connect: Open) -> None:
    store = await connect()
    asks = [ask(account=name, limit=limit) for name, limit in (("b", 5), ("a", 7), ("c", 9))]
    grants = await store.lease(1, asks)
    assert [grant.left + grant.ahead for grant in grants] == [5, 7, 9]


async def test_a_call_that_is_made_twice_is_carried_out_once(connect: Open) -> None:
    store = await connect()
    await store.lease(1, [ask(needs=(60,), more=False)])
    call = [ask(back=30, needs=(10,), more=False)]
    await store.lease(2, call)
    [again] = await store.lease(2, call)
    assert again.granted == (False,)
    assert again.left == 60


async def test_the_lease_of_a_gateway_that_died_comes_back(connect: Open) -> None:
    dead, other = await connect(lease_s=0.05), await connect()
    [held] = await dead.lease(1, [ask(slice=80)])
    assert held.ahead == 40
    left, call = 0.0, 0
    while left < 100:  # until the store's clock says that its time is over
        call += 1
        [grant] = await other.lease(call, [ask(more=False)])
        left = grant.left
        assert left in (60, 100)
    # It lives, and had spent all of it.
    [back] = await dead.lease(2, [ask(slice=80, recorded=40, more=False)])
    assert back.left == 60


async def test_slots_of_a_gateway_that_died_come_back(connect: Open) -> None:
    dead, other = await connect(lease_s=0.05), await connect()
    slots = {"kind": "concurrent", "limit": 2, "slice": 0}
    [grant] = await dead.lease(1, [ask(**slots, needs=(1, 1))])
    assert grant.granted == (True, True)
    call = 0
    taken = False
    while not taken:
        call += 1
        [grant] = await other.lease(call, [ask(**slots, needs=(1,))])
        taken = all(grant.granted)


async def test_a_bucket_is_refilled_by_the_clock_of_the_store(connect: Open) -> None:
    store = await connect()
    bucket = {"kind": "tpm", "rate": 1000.0, "more": False}
    [first] = await store.lease(1, [ask(**bucket, needs=(100,))])
    left, call = 0.0, 1
    while left < 100:
        call += 1
        [grant] = await store.lease(call, [ask(**bucket)])
        assert grant.left <= min(100.0, (grant.now - first.now) * 1000 + 0.1)
        left = grant.left


async def test_a_store_without_a_counter_begins_where_a_gateway_saw_it_last(connect: Open) -> None:
    store = await connect()
    [grant] = await store.lease(1, [ask(floor=10, seen=70, more=False)])
    assert grant.left == 30
    [grant] = await store.lease(2, [ask(floor=10, seen=80, back=5, more=False)])
    assert grant.left == 35


async def test_a_window_that_has_not_begun_ends_none(connect: Open) -> None:
    store = await connect()
    now = await store.open()
    [first] = await store.lease(1, [ask(since=now - 100, until=now + 50, needs=(80,), more=False)])
    [early] = await store.lease(2, [ask(since=now + 50, until=now + 200, needs=(80,))])
    assert early.granted == (False,)
    assert early.since == first.since == pytest.approx(now - 100)
    [later] = await store.lease(3, [ask(since=now - 50, until=now + 100, needs=(80,), more=False)])
    assert later.granted == (True,)
    over = {"since": now - 100, "until": now + 50, "more": False}
    [old] = await store.lease(4, [ask(**over, back=80, floor=90)])
    assert old.left == 20


@pytest.mark.parametrize("seed", range(4))
async def test_every_store_decides_alike(connect: Open, seed: int) -> None:
    random = Random(seed)
    stores = {str(number): await connect() for number in range(3)}
    call = 0
    now = await stores["0"].open()
    for kind in ("concurrent", "tokens:total", "tokens:day", "tpm"):
        counter: Counter | None = None
        leases: dict[str, Lease] = {}
        for _ in range(20):
            call += 1
            name = random.choice(list(stores))
            wish = _random_ask(random, kind, now)
            [told] = await stores[name].lease(call, [wish])
            repeated = random.random() < 0.1
            if repeated:
                [told] = await stores[name].lease(call, [wish])
            for again in [False, True][: 1 + repeated]:
                found = decide(counter, leases, name, wish, told.now, again)
                counter = found.counter
                for gone in (*found.over, name):
                    leases.pop(gone, None)
                if found.amount:
                    leases[name] = Lease(found.amount, told.now + LONG_S)
            assert _told(told) == _comparable(found.grant)


def _random_ask(random: Random, kind: str, now: float) -> Ask:
    window = kind == "tokens:day"
    return ask(
        kind=kind,
        limit=random.choice([0, 50, 100, 1000]),
        rate=0.001 if kind == "tpm" else 0.0,
        since=now - random.choice([10, 50, 100, -100]) if window else 0.0,
        until=now + 1000 if window else 0.0,
        slice=random.choice([0, 9, 40]),
        back=random.randint(0, 30),
        kept=random.randint(0, 20),
        recorded=random.randint(0, 20),
        busy=random.randint(0, 5) if kind == "concurrent" else 0,
        needs=tuple(random.randint(1, 40) for _ in range(random.randint(0, 4))),
        more=random.random() < 0.7,
        floor=random.choice([0, 0, 60]) if window else 0,
        seen=random.choice([0, 0, 30]) if kind.startswith("tokens") else 0,
        lowered=random.random() < 0.2,
    )


def _told(grant: Grant) -> object:
    return grant.granted, grant.ahead, grant.recorded, grant.left, grant.since


def _comparable(grant: Grant) -> object:
    return (
        grant.granted,
        grant.ahead,
        grant.recorded,
        pytest.approx(grant.left, abs=1e-3),
        pytest.approx(grant.since, abs=1e-3),
    )
