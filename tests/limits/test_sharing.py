"""A gateway that shares its limits: what it may do alone, and what becomes of an outage."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path

import pytest

from gateway.config import ConfigError, LimitsConfig, load_config
from gateway.errors import QuotaExceededError, RateLimitError, UnavailableError
from gateway.limits import Limiter, Reservation, shared_limits
from gateway.limits.leased import RECHECK_S
from gateway.limits.shared import Ask, Counter, Grant, Lease, decide
from gateway.store.database import Database
from gateway.tenants import Account, Budget
from tests.limits.conftest import Clock, key, now, spent

LEASE_S = 5.0


class Kept:
    """Shared limits in memory, on the tests' clock. `out`: nobody gets an answer."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.counters: dict[tuple[str, str], Counter] = {}
        self.leases: dict[tuple[str, str], dict[str, Lease]] = {}
        self.calls = 0
        self.out = False

    def connect(self, name: str) -> Connection:
        return Connection(self, name)


class Connection:
    def __init__(self, kept: Kept, name: str) -> None:
        self.kept = kept
        self.name = name
        self.last = 0

    async def open(self) -> float:
        return self.kept.clock()

    async def lease(self, call: int, asks: Sequence[Ask]) -> list[Grant]:
        await asyncio.sleep(0)
        if self.kept.out:
            raise UnavailableError("", retry_after_s=1.0)
        repeated, self.last = call == self.last, call
        self.kept.calls += 1
        return [self._decide(ask, repeated) for ask in asks]

    def _decide(self, ask: Ask, repeated: bool) -> Grant:
        place, kept = (ask.account, ask.kind), self.kept
        leases = kept.leases.setdefault(place, {})
        found = decide(kept.counters.get(place), leases, self.name, ask, kept.clock(), repeated)
        kept.counters[place] = found.counter
        for name in (*found.over, self.name):
            leases.pop(name, None)
        if found.amount:
            leases[self.name] = Lease(found.amount, kept.clock() + LEASE_S)
        return found.grant

    async def close(self) -> None:
        pass


@pytest.fixture
def kept(clock: Clock) -> Kept:
    return Kept(clock)


Start = Callable[[str], Awaitable[Limiter]]


@pytest.fixture
async def gateway(kept: Kept, clock: Clock) -> AsyncIterator[Start]:
    """Start a gateway that shares limits with those started before."""
    limiters: list[Limiter] = []

    async def start(name: str) -> Limiter:
        config = LimitsConfig(share="state", slice=0.2, lease_s=LEASE_S)
        limiter = Limiter(config, clock, kept.connect(name))
        await limiter.start()
        limiters.append(limiter)
        return limiter

    yield start
    for limiter in limiters:
        await limiter.close()


async def reserve(limiter: Limiter, account: Account, tokens: int = 1) -> Reservation:
    found = limiter.reserve((account,), tokens, 0)
    return found if isinstance(found, Reservation) else await found


async def admitted(limiter: Limiter, account: Account, tokens: int, count: int) -> int:
    """Tokens of those of `count` requests that are let in, all at once."""
    found = await asyncio.gather(
        *(reserve(limiter, account, tokens) for _ in range(count)), return_exceptions=True
    )
    for one in found:
        assert isinstance(one, (Reservation, RateLimitError, QuotaExceededError))
    return sum(tokens for one in found if isinstance(one, Reservation))


async def test_gateways_admit_together_no_more_than_one_would(gateway: Start) -> None:
    one, other = await gateway("one"), await gateway("other")
    account = key(tpm=1000, budgets=(Budget("tokens", 1000),))
    sums = await asyncio.gather(admitted(one, account, 7, 500), admitted(other, account, 7, 500))
    assert 800 < sum(sums) <= 1000


async def test_most_requests_wait_for_nobody(gateway: Start, kept: Kept) -> None:
    limiter = await gateway("one")
    account = key(rpm=1_000_000, tpm=100_000_000)
    await reserve(limiter, account, 10)
    calls = kept.calls
    for _ in range(1000):
        now(limiter, (account,), 10).settle(5, 0)
    assert kept.calls == calls


async def test_a_lone_gateway_can_use_all_of_a_limit(gateway: Start) -> None:
    limiter = await gateway("one")
    account = key(tpm=100, concurrent=3, budgets=(Budget("tokens", 100),))
    for tokens in (50, 30, 20):
        await reserve(limiter, account, tokens)
    with pytest.raises(RateLimitError, match="concurrent requests: Limit 3, Used 3"):
        await reserve(limiter, account, 0)


async def test_what_comes_back_others_can_have(gateway: Start, clock: Clock) -> None:
    one, other = await gateway("one"), await gateway("other")
    account = key(budgets=(Budget("tokens", 1000),), concurrent=1)
    first = await reserve(one, account, 1000)
    with pytest.raises((RateLimitError, QuotaExceededError)):
        await reserve(other, account, 100)
    first.settle(100, 0)
    pending = one.reserve((account,), 600, 0)
    assert isinstance(pending, Coroutine)  # more than a slice isn't kept
    pending.close()
    while True:  # until what came back has been told
        try:
            second = await reserve(other, account, 600)
        except (RateLimitError, QuotaExceededError):
            clock.now += RECHECK_S
            await asyncio.sleep(0.01)
        else:
            break
    second.cancel()


async def test_in_an_outage_a_gateway_spends_what_it_holds_and_no_more(
    gateway: Start, kept: Kept, clock: Clock
) -> None:
    limiter = await gateway("one")
    account = key(tpm=1000)
    await reserve(limiter, account, 10)
    kept.out = True
    held = 0
    while isinstance(found := limiter.reserve((account,), 10, 0), Reservation):
        held += 10
    assert 50 <= held <= 200
    with pytest.raises(UnavailableError) as caught:
        await found
    assert (caught.value.status, caught.value.code) == (503, "storage_unavailable")


async def test_after_an_outage_what_was_used_is_known(
    gateway: Start, kept: Kept, clock: Clock
) -> None:
    limiter = await gateway("one")
    account = key(budgets=(Budget("tokens", 1000),))
    first = await reserve(limiter, account, 500)
    kept.out = True
    with pytest.raises(UnavailableError):
        await reserve(limiter, account, 450)
    first.settle(300, 0)
    kept.out = False
    await limiter.close()
    [counter] = [one for (_, kind), one in kept.counters.items() if kind == "tokens:month"]
    assert counter.used == 300


async def test_who_hangs_up_while_waiting_takes_nothing(gateway: Start, kept: Kept) -> None:
    limiter = await gateway("one")
    account = key(budgets=(Budget("tokens", 1000),), concurrent=2)
    for turns in range(8):  # wherever the call has got to
        waiting = asyncio.ensure_future(reserve(limiter, account, 900))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        [found] = await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(found, Reservation):
            found.cancel()
    await limiter.close()
    assert {counter.used for counter in kept.counters.values()} == {0}


async def test_closing_gives_everything_back(gateway: Start, kept: Kept) -> None:
    limiter = await gateway("one")
    for number in range(600):  # more than one call tells
        account = key(budgets=(Budget("tokens", 1000),), name=f"key:{number}")
        (await reserve(limiter, account, 10)).settle(1, 0)
    await limiter.close()
    assert {counter.used for counter in kept.counters.values()} == {1}
    assert not any(kept.leases.values())


async def test_what_the_ledger_knows_is_used_even_if_the_store_has_lost_it(gateway: Start) -> None:
    limiter = await gateway("one")
    limiter.restore([spent("key:k", "month", 900)])
    account = key(budgets=(Budget("tokens", 1000),))
    with pytest.raises(QuotaExceededError):
        await reserve(limiter, account, 101)
    await reserve(limiter, account, 100)


async def test_a_shared_budget_given_later_counts_what_was_used_here(gateway: Start) -> None:
    one, other = await gateway("one"), await gateway("other")
    (await reserve(one, key(tpm=1000), 220)).settle(220, 0)
    later = key(budgets=(Budget("tokens", 300),))
    await reserve(one, later, 20)
    with pytest.raises((QuotaExceededError, RateLimitError)):
        await reserve(other, later, 61)
    await reserve(other, later, 1)


async def test_a_shared_budget_counts_what_the_ledger_says_later(gateway: Start) -> None:
    limiter = await gateway("one")
    account = key(budgets=(Budget("tokens", 1000),))
    await reserve(limiter, account, 10)
    limiter.at_least([spent("key:k", "month", 900)])
    with pytest.raises((QuotaExceededError, RateLimitError)):
        await reserve(limiter, account, 200)


async def test_what_the_ledger_said_of_a_window_that_is_over_is_not_of_the_next_shared_one(
    gateway: Start, clock: Clock
) -> None:
    limiter = await gateway("one")
    account = key(budgets=(Budget("tokens", 1000, "hour"),))
    await reserve(limiter, account, 10)
    found = spent("key:k", "hour", 900)
    clock.now += 3600
    limiter.at_least([found])
    await reserve(limiter, account, 900)


async def test_what_ran_before_a_shared_budget_was_given_counts_when_it_has_ended(
    gateway: Start,
) -> None:
    limiter = await gateway("one")
    running = await reserve(limiter, key(tpm=10_000), 900)
    account = key(budgets=(Budget("tokens", 1000),))
    await reserve(limiter, account, 100)
    running.settle(800, 0)
    with pytest.raises((QuotaExceededError, RateLimitError)):
        await reserve(limiter, account, 400)


async def test_a_store_that_has_lost_its_data_is_told_what_was_used(
    gateway: Start, kept: Kept
) -> None:
    limiter, other = await gateway("one"), await gateway("other")
    account = key(budgets=(Budget("tokens", 1000),))
    (await reserve(other, account, 200)).settle(200, 0)
    (await reserve(limiter, account, 400)).settle(300, 0)
    running = await reserve(limiter, account, 300)
    kept.counters.clear()
    kept.leases.clear()
    with pytest.raises((QuotaExceededError, RateLimitError)):
        await reserve(limiter, account, 300)
    await reserve(limiter, account, 100)
    running.settle(300, 0)


async def test_a_shared_budget_goes_on_when_a_wrong_clock_is_put_right(kept: Kept) -> None:
    local = Clock()
    config = LimitsConfig(share="state", slice=0.2, lease_s=LEASE_S)
    limiter = Limiter(config, local, kept.connect("one"))
    await limiter.start()
    account = key(budgets=(Budget("tokens", 1000, "hour"),))
    (await reserve(limiter, account, 10)).settle(10, 0)
    local.now += 1e8
    with contextlib.suppress(RateLimitError, QuotaExceededError):
        (await reserve(limiter, account, 10)).cancel()  # the store tells what time it is
    (await reserve(limiter, account, 100)).settle(100, 0)
    await limiter.close()
    assert kept.counters["key:k", "tokens:hour"].used >= 110


async def test_what_comes_back_before_anybody_was_asked_is_enough(gateway: Start) -> None:
    limiter = await gateway("one")
    account = key(budgets=(Budget("tokens", 1000),))
    running = [await reserve(limiter, account, 10)]
    while isinstance(found := limiter.reserve((account,), 10, 0), Reservation):
        running.append(found)
    for one in running:
        one.settle(0, 0)
    async with asyncio.timeout(1):
        (await found).cancel()


async def idle(limiter: Limiter, clock: Clock) -> None:
    """Let so much time pass that nothing is held of what nobody uses."""
    for number in range(4):
        clock.now += LEASE_S
        await told(limiter, number)


async def told(limiter: Limiter, number: int = 0) -> None:
    """Wait for a call: it is made for a limit that isn't known yet, and tells of all others."""
    (await reserve(limiter, key(tpm=1000, name=f"key:{limiter._clock()}:{number}"))).cancel()


async def test_slots_that_were_idle_for_long_are_leased_again(gateway: Start, clock: Clock) -> None:
    one, other = await gateway("one"), await gateway("other")
    account = key(concurrent=2)
    (await reserve(one, account)).settle(1, 0)
    await idle(one, clock)
    running = [await reserve(one, account), await reserve(one, account)]
    for _ in range(4):
        clock.now += LEASE_S / 2
        await told(one)
    with pytest.raises(RateLimitError):
        await reserve(other, account)
    for one_ in running:
        one_.settle(1, 0)


async def test_what_was_idle_for_long_and_used_again_is_given_back_at_the_end(
    gateway: Start, kept: Kept, clock: Clock
) -> None:
    limiter = await gateway("one")
    account = key(budgets=(Budget("tokens", 1000, "total"),))
    (await reserve(limiter, account, 10)).settle(10, 0)
    await idle(limiter, clock)
    for tokens in (10, 20, 20):
        (await reserve(limiter, account, tokens)).settle(tokens, 0)
    await limiter.close()
    assert kept.counters["key:k", "tokens:total"].used == 60
    assert not kept.leases["key:k", "tokens:total"]


async def test_what_was_taken_from_a_shared_bucket_long_ago_does_not_come_back(
    gateway: Start, clock: Clock
) -> None:
    limiter = await gateway("one")
    account = key(tpm=1000)
    old = []
    for _ in range(5):
        old.append(await reserve(limiter, account, 1000))
        clock.now += 61
    used = 0
    for one in old:
        one.settle(0, 0)
        used += await admitted(limiter, account, 100, 10)
    assert used <= 1000


async def test_who_calls_one_gateway_after_the_other_always_has_its_slot(
    gateway: Start, clock: Clock
) -> None:
    both = [await gateway("one"), await gateway("other")]
    account = key(concurrent=1)
    for turn in range(10):
        (await reserve(both[turn % 2], account)).settle(1, 0)


async def test_a_slot_that_becomes_free_elsewhere_in_a_moment_is_waited_for(
    gateway: Start, kept: Kept, clock: Clock
) -> None:
    one, other = await gateway("one"), await gateway("other")
    account = key(concurrent=1)
    first = await reserve(one, account)
    calls = kept.calls
    waiting = asyncio.ensure_future(reserve(other, account))
    while kept.calls == calls:
        await asyncio.sleep(0)
    first.settle(1, 0)
    (await waiting).settle(1, 0)


async def test_a_slot_that_stays_taken_elsewhere_is_refused(gateway: Start, clock: Clock) -> None:
    one, other = await gateway("one"), await gateway("other")
    account = key(concurrent=1)
    first = await reserve(one, account)
    with pytest.raises(RateLimitError, match="concurrent"):
        await reserve(other, account)
    first.settle(1, 0)


async def test_a_lowered_limit_acts_on_what_is_held(gateway: Start) -> None:
    limiter = await gateway("one")
    await reserve(limiter, key(tpm=1000), 10)
    with pytest.raises(RateLimitError):
        await reserve(limiter, key(tpm=20), 21)
    assert await admitted(limiter, key(tpm=20), 1, 100) <= 20


async def test_limits_can_not_be_shared_through_memory() -> None:
    database = Database("sqlite://")
    with pytest.raises(ConfigError, match="state in memory"):
        shared_limits(LimitsConfig(share="state"), database)
    assert shared_limits(LimitsConfig(), database) is None
    await database.close()


@pytest.mark.parametrize(
    "share", ["memcached://x", "redis://:port/x", "redis:host:1", "redis:/host:1", "State"]
)
def test_what_nothing_can_be_shared_through_is_a_config_error(share: str) -> None:
    with pytest.raises(ConfigError, match=r"limits\.share: expected 'state' or redis://"):
        load_config(overrides={"limits.share": share}, environ={})


async def test_a_redis_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/state.db")
    config = LimitsConfig(share="redis://127.0.0.1:1/0")
    limiter = Limiter(config, shared=shared_limits(config, database))
    with pytest.raises(ConfigError, match="can't use Redis"):
        await limiter.start()
    await limiter.close()
    await database.close()
