"""Several gateways share limits through one store: they crash, their clocks differ, answers come
late or never, and together they use no more of a limit than it has, and one slice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import APIError, UnavailableError
from gateway.limits.leased import Leased
from gateway.limits.leases import Call, Leases
from gateway.limits.leasing import CALL_TIMEOUT_S
from gateway.limits.meters import TOKENS
from gateway.limits.reservation import Reservation, amounts_of
from gateway.limits.shared import Ask, Counter, Grant, Lease, decide
from gateway.limits.use import Use
from gateway.tenants import Budget
from tests.limits.conftest import MONDAY

LEASE_S = 5.0
SHARE = 0.3
GATEWAYS = 2
BUDGET = Budget("tokens", 0, "hour")
ROUNDING = 1e-3


@dataclass
class Store:
    """What `decide` decides, kept."""

    counter: Counter | None = None
    leases: dict[str, Lease] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def lease(self, instance: str, call: int, ask: Ask, now: float) -> Grant:
        repeated = self.calls.get(instance) == call
        self.calls[instance] = call
        found = decide(self.counter, self.leases, instance, ask, now, repeated)
        self.counter = found.counter
        for name in (*found.over, instance):
            self.leases.pop(name, None)
        if found.amount:
            self.leases[instance] = Lease(found.amount, now + LEASE_S)
        return found.grant


@dataclass
class Held:
    reservation: Reservation
    meter: Leased
    tokens: int
    window: float


class Gateway:
    """One process: its clock is `skew` ahead of the store's."""

    def __init__(self, name: str, skew: float, world: World) -> None:
        self.name = name
        self.world = world
        self.skew = skew
        self.leases = Leases(SHARE, LEASE_S, lambda _urgent: None)
        self.sent: Call | None = None
        self.running: list[Held] = []
        self.known: Leased | None = None
        self.use = Use("team:t", "tokens", TOKENS, self.now())
        self.untold = 0  # came back from requests, and the store doesn't know yet
        self.pending: list[tuple[asyncio.Future[Reservation], int]] = []

    def now(self) -> float:
        return self.world.now + self.skew

    def meter(self) -> Leased:
        """One and the same, as an account has it until it is forgotten."""
        if self.known is None:
            world = self.world
            budget = BUDGET if world.kind == "tokens:hour" else None
            self.known = self.leases.meter(
                "team:t", world.kind, world.limit, budget, self.now(), self.use
            )
        return self.known

    def forget(self) -> None:
        if self.known is not None and self.known.idle(self.now()):
            self.known = None

    def collect(self) -> Iterator[tuple[Reservation, int]]:
        """What was granted to those that waited."""
        still = []
        for future, tokens in self.pending:
            if not future.done():
                still.append((future, tokens))
                continue
            with contextlib.suppress(APIError):
                yield future.result(), tokens
        self.pending = still


class World:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.kind = random.choice(["tpm", "tokens:hour", "concurrent"])
        self.limit = random.choice([0, 1, 7, 20, 100, 1000])
        skews = random.choice(
            [[0.0] * GATEWAYS, [random.uniform(-20, 20) for _ in range(GATEWAYS)]]
        )
        self.now = MONDAY + 3590  # the hour is soon over
        self.store = Store()
        self.gateways = [Gateway(f"g{i}", skew, self) for i, skew in enumerate(skews)]
        self.born = GATEWAYS
        self.moves: list[tuple[float, int]] = []
        self.lost = 0
        self.lapsed = False
        self.trouble = random.choice([0.02, 0.1, 0.3])
        self.used: dict[float, int] = {}
        self.balanced = len(set(skews)) == 1 and skews[0] == 0

    def step(self) -> None:
        random = self.random
        which = random.randrange(GATEWAYS)
        moves = [self.reserve, self.settle, self.send, self.answer, self.round_trip]
        rare = [self.lose, self.crash, self.pass_time, self.forget]
        move = random.choice(rare if random.random() < self.trouble else moves)
        move(which)
        self.check()

    def reserve(self, which: int) -> None:
        for _ in range(self.random.randint(1, 8)):
            most = max(1, self.limit // self.random.choice([2, 5, 20, 50]))
            tokens = 1 if self.kind == "concurrent" else self.random.randint(1, most)
            self.reserve_one(self.gateways[which], tokens)

    def reserve_one(self, gateway: Gateway, tokens: int) -> None:
        amounts = amounts_of(tokens, 0)
        meter, now = gateway.meter(), gateway.now()
        if meter.take(amounts[meter.unit], now):
            self.admitted(gateway, Reservation([meter], amounts, now, gateway.now), tokens)
        elif meter.lack(amounts[meter.unit], now) is None:
            future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
            gateway.leases.borrow([meter], amounts, future, now, gateway.now)
            gateway.pending.append((future, tokens))

    def admitted(self, gateway: Gateway, reservation: Reservation, tokens: int) -> None:
        meter = gateway.meter()
        window = meter.since
        reservation.count([gateway.use])
        gateway.running.append(Held(reservation, meter, tokens, window))
        self.moves.append((self.now, tokens))
        self.used[window] = self.used.get(window, 0) + tokens

    def settle(self, which: int) -> None:
        """Some of its requests end."""
        gateway = self.gateways[which]
        running = gateway.running
        self.random.shuffle(running)
        for _ in range(self.random.randint(0, len(running))):
            self.settle_one(gateway, running.pop(), self.random.choice([0, 0.1, 0.7, 1]))

    def settle_one(self, gateway: Gateway, held: Held, used: float) -> None:
        tokens = int(used * held.tokens)
        meter = held.meter
        back, kept = meter._back, meter._held
        held.reservation.settle(tokens, 0)
        # What the time alone changes moves some from what is kept to what is told of.
        came_back = max(0, meter._back + meter._held - back - kept)
        told_later = min(came_back, max(0, meter._back - back))
        gateway.untold += told_later
        self.moves.append((self.now, told_later - came_back))
        self.used[held.window] -= held.tokens - tokens

    def end_all(self, which: int) -> None:
        gateway = self.gateways[which]
        while gateway.running:
            self.settle_one(gateway, gateway.running.pop(), 0.5)

    def send(self, which: int) -> None:
        gateway = self.gateways[which]
        if gateway.sent is None:
            gateway.leases.tick()
            gateway.sent = gateway.leases.call(gateway.now())
            for reservation, tokens in gateway.collect():  # there was a slot here after all
                self.admitted(gateway, reservation, tokens)

    def answer(self, which: int) -> None:
        """The store carries a call out and its answer comes."""
        gateway = self.gateways[which]
        if (call := gateway.sent) is not None:
            gateway.sent = None
            grants = self.carry_out(gateway, call)
            gateway.leases.answered(call, grants, gateway.now(), gateway.now)
            for reservation, tokens in gateway.collect():
                self.admitted(gateway, reservation, tokens)

    def round_trip(self, which: int) -> None:
        self.send(which)
        self.answer(which)

    def lose(self, which: int) -> None:
        """No answer comes, whether or not the store got the call."""
        gateway = self.gateways[which]
        if (call := gateway.sent) is not None:
            gateway.sent = None
            if self.random.random() < 0.5:
                self.carry_out(gateway, call)
                self.balanced = False
            error = UnavailableError("", retry_after_s=1.0)
            gateway.leases.failed(call, error, gateway.now())
            assert not list(gateway.collect())

    def carry_out(self, gateway: Gateway, call: Call) -> list[Grant]:
        for ask in call.asks:
            back = min(ask.back, gateway.untold)
            gateway.untold -= back
            self.moves.append((self.now, -back))
        return [self.store.lease(gateway.name, call.number, ask, self.now) for ask in call.asks]

    def crash(self, which: int) -> None:
        """Its requests end with it; what it had reserved stays used."""
        old = self.gateways[which]
        lease = self.store.leases.get(old.name)
        if lease is not None:
            # It may have been spent since it was recorded; that is all that can be too much.
            self.lost += lease.amount
        self.balanced = False
        self.gateways[which] = Gateway(f"g{self.born}", old.skew, self)
        self.born += 1

    @property
    def slots(self) -> bool:
        return self.kind == "concurrent"

    def pass_time(self, which: int) -> None:
        seconds = self.random.choice([0.01, 0.2, 1.0, 4.0, 6.0, 30.0, 61.0])
        if seconds > CALL_TIMEOUT_S:
            for each in [i for i in range(GATEWAYS) if self.gateways[i].pending]:
                self.send(each)
                self.lose(each)
        self.now += seconds
        # Who was silent for so long isn't counted on; its requests may run all the same.
        self.lapsed |= any(lease.until <= self.now for lease in self.store.leases.values())

    def forget(self, which: int) -> None:
        self.gateways[which].forget()

    def check(self) -> None:
        self.what_a_gateway_holds_is_leased()
        self.all_slices_together_are_at_most_one()
        self.no_more_is_used_than_the_limit_and_one_slice()

    def what_a_gateway_holds_is_leased(self) -> None:
        for gateway in self.gateways:
            meter = gateway.known
            if meter is not None and (meter._held or meter._recorded):
                assert meter in gateway.leases._alive

    def all_slices_together_are_at_most_one(self) -> None:
        if not self.slots:
            held = sum(lease.amount for lease in self.store.leases.values())
            assert held <= int(self.limit * SHARE)

    def no_more_is_used_than_the_limit_and_one_slice(self) -> None:
        over = int(self.limit * SHARE) + self.lost
        if self.kind == "tokens:hour":
            assert all(used <= self.limit + over for used in self.used.values())
        elif self.kind == "tpm":
            assert most_over(self.limit, self.moves, self.now) <= over + ROUNDING
        elif self.kind == "concurrent" and not self.lapsed:
            assert sum(len(one.running) for one in self.gateways) <= self.limit

    def balance(self) -> None:
        """All gateways go: the store knows then what was used."""
        for which in range(GATEWAYS):
            self.end_all(which)
        for which, gateway in enumerate(self.gateways):
            self.answer(which)
            self.end_all(which)
            while (call := gateway.leases.call(gateway.now(), closing=True)) is not None:
                gateway.sent = call
                self.answer(which)
                self.end_all(which)
            assert gateway.name not in self.store.leases or self.is_ahead(gateway)
        counter = self.store.counter
        if self.kind == "tokens:hour" and counter is not None:
            used = self.used.get(counter.since, 0)
            assert counter.used >= used - self.lost
            if self.balanced:
                assert counter.used == used

    def is_ahead(self, gateway: Gateway) -> bool:
        """Whether the store is in a window still that this gateway holds nothing of any more."""
        return self.store.counter is not None and gateway.meter().since > self.store.counter.since


def most_over(limit: int, moves: list[tuple[float, int]], now: float) -> float:
    worst, total = 0.0, 0
    for at, amount in reversed(moves):
        total += amount
        worst = max(worst, total - limit - (now - at) * limit / 60)
    return worst


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
async def test_several_gateways_use_no_more_than_the_limit_and_one_slice(seed: int) -> None:
    world = World(Random(seed))
    for _ in range(300):
        world.step()
    world.balance()
