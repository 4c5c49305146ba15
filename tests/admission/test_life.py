"""Anything that may happen to requests, their clients and their engine, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench.simulate.loop import VirtualLoop
from gateway.admission import Permit
from gateway.errors import APIError, DeadlineError, OverloadedError, UnavailableError
from gateway.tenants import Priority
from tests.admission.scripted import Engine
from tests.admission.world import REPLICA, Asked, World, demand, timers

TENANTS = st.sampled_from("abcd")
CAP = 3


class Wanted(NamedTuple):
    """A demand without its tenant; `patience` is how many seconds it may take."""

    prompt_tokens: int
    sequences: int
    priority: Priority
    patience: float | None
    weight: float


DEMANDS = st.builds(
    Wanted,
    prompt_tokens=st.integers(0, 80),
    sequences=st.sampled_from([1, 1, 1, 2, 6]),
    priority=st.sampled_from(["online", "online", "batch"]),
    patience=st.sampled_from([None, None, 0.0, 1.0, 5.0]),
    weight=st.sampled_from([1.0, 3.0]),
)


def inside(of: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine method on the machine's loop, and what it has set off."""

    @wraps(of)
    def run(self: Life, *args: Any, **kwargs: Any) -> None:
        async def play() -> None:
            await of(self, *args, **kwargs)
            self.look()
            await asyncio.sleep(0)
            self.look()

        self.loop.run_until_complete(play())

    return run


class Life(RuleBasedStateMachine):
    """Every permit is in one of these: rendering, waiting, working, over."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.said: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.said.append(context["message"]))
        self.rendering: list[tuple[Permit, str]] = []
        self.waiting: list[Asked] = []
        self.over: list[Asked] = []
        self.there = True

    @initialize(
        seats=st.integers(1, 4),
        margin=st.sampled_from([0.0, 0.5]),
        spare=st.sampled_from([0, 1, 3]),
        kv_tokens=st.sampled_from([None, 200]),
        max_queued=st.sampled_from([0, 2, 5, 50]),
    )
    @inside
    async def begin(
        self, seats: int, margin: float, spare: int, kv_tokens: int | None, max_queued: int
    ) -> None:
        self.world = World(self.loop)
        self.world.set_up(
            seats=seats,
            margin=margin,
            spare=spare,
            kv_tokens=kv_tokens,
            max_queued=max_queued,
            max_queued_per_tenant=8,
            max_queued_tokens=300,
            max_running_per_tenant=CAP,
            max_requests=40,
        )
        self.places = seats + max(spare, -int(-margin * seats // 1))
        self.engine = Engine(seats + spare)
        self.seats = seats

    @rule(tenant=TENANTS)
    @inside
    async def enter(self, tenant: str) -> None:
        try:
            self.rendering.append((self.world.enter(tenant), tenant))
        except OverloadedError:
            assert self.world.admission.inside or not self.there

    @rule(tenants=st.lists(TENANTS, min_size=1, max_size=8), wanted=DEMANDS)
    @inside
    async def arrive(self, tenants: list[str], wanted: Wanted) -> None:
        """Several at once, of one kind."""
        for tenant in tenants:
            try:
                permit = self.world.enter(tenant)
            except OverloadedError:
                continue
            self.ask(permit, tenant, wanted)

    @precondition(lambda self: self.rendering)
    @rule(data=st.data(), wanted=DEMANDS)
    @inside
    async def request(self, data: st.DataObject, wanted: Wanted) -> None:
        number = data.draw(st.integers(0, len(self.rendering) - 1))
        permit, tenant = self.rendering.pop(number)
        self.ask(permit, tenant, wanted)

    @precondition(lambda self: self.rendering)
    @rule()
    @inside
    async def hang_up_early(self) -> None:
        self.rendering.pop()[0].release()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), cancel=st.booleans(), then_step=st.booleans())
    @inside
    async def hang_up_waiting(self, data: st.DataObject, cancel: bool, then_step: bool) -> None:
        asked = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(asked)
        if cancel:
            assert asked.turn is not None
            asked.turn.cancel()
            if then_step:  # before its client is known to be gone
                self.step()
        asked.end()

    @precondition(lambda self: self.engine.inside)
    @rule(data=st.data())
    @inside
    async def hang_up_running(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.engine.inside))
        self.engine.inside.remove(work)
        work.asked.end()

    @precondition(lambda self: self.there)
    @rule(steps=st.integers(1, 8), seconds=st.sampled_from([0.001, 0.1, 1.0]))
    @inside
    async def run(self, steps: int, seconds: float) -> None:
        for _ in range(steps):
            await asyncio.sleep(seconds)
            self.look()
            self.step()

    @rule(usage=st.sampled_from([0.0, 0.5, 0.99]))
    @inside
    async def fill_the_cache(self, usage: float) -> None:
        self.world.model.usage = usage
        await asyncio.sleep(0.05)

    @precondition(lambda self: self.there)
    @rule(restarts=st.booleans())
    @inside
    async def die(self, restarts: bool) -> None:
        """Who had his first token is over, or goes on with the next engine; the others go back."""
        self.there = False
        self.world.away()
        works, self.engine.inside = self.engine.inside, []
        for work in works:
            if work.asked.produced and not restarts:
                work.asked.end()
                continue
            try:
                work.asked.again()
                self.waiting.append(work.asked)
            except DeadlineError:
                work.asked.end()

    @precondition(lambda self: not self.there)
    @rule()
    @inside
    async def load(self) -> None:
        self.there = True
        self.world.serve()

    @rule()
    @inside
    async def give_up(self) -> None:
        self.world.admission.refuse_queued(REPLICA, UnavailableError("gone", retry_after_s=1.0))
        assert not self.world.admission.queued
        self.there = True
        self.world.serve()

    def ask(self, permit: Permit, tenant: str, wanted: Wanted) -> None:
        patience = wanted.patience
        complete = demand(
            tenant,
            weight=wanted.weight,
            priority=wanted.priority,
            prompt_tokens=wanted.prompt_tokens,
            sequences=wanted.sequences,
            deadline=None if patience is None else self.loop.time() + patience,
        )
        try:
            self.waiting.append(Asked(permit, complete))
        except (OverloadedError, DeadlineError):
            permit.release()
        self.look()

    def step(self) -> None:
        """A step of the engine, and what ends with it."""
        for work in self.engine.step():
            work.asked.end()
            self.look()

    def look(self) -> None:
        """Submit who may go, see who was refused."""
        self.waiting.sort(key=lambda one: one.permit.order)
        for asked in list(self.waiting):
            if asked.waiting:
                continue
            self.waiting.remove(asked)
            if asked.going:
                assert self.there
                assert not any(self.before(one, asked) for one in self.waiting)
                self.engine.submit(asked, completion=3, cached=asked.demand.prompt_tokens // 2)
            else:
                assert isinstance(asked.refused, APIError)
                asked.end()

    @staticmethod
    def before(one: Asked, other: Asked) -> bool:
        """Whether it waits, and should have gone before the other."""
        mine, his = one.demand, other.demand
        same = (mine.tenant, mine.priority) == (his.tenant, his.priority)
        return same and one.waiting and one.permit.order < other.permit.order

    def sequences(self, tenant: str | None = None) -> list[int]:
        works = [work.asked.demand for work in self.engine.inside]
        return [one.sequences for one in works if tenant in (None, one.tenant)]

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "world"):
            return
        stats = self.world.admission.stats(REPLICA)
        held = len(self.rendering) + len(self.waiting) + len(self.engine.inside)
        assert self.world.admission.inside == held
        assert stats.queued == len(self.waiting)
        assert stats.queued_tokens == sum(one.demand.prompt_tokens for one in self.waiting)
        assert stats.running == sum(self.sequences())

    @invariant()
    def the_engine_is_never_over_full(self) -> None:
        if hasattr(self, "world"):
            sequences = self.sequences()
            most = max(self.places, self.seats - 1 + max(sequences, default=0))
            assert sum(sequences) <= most

    @invariant()
    def no_tenant_is_over_its_cap(self) -> None:
        for tenant in "abcd":
            sequences = self.sequences(tenant) if hasattr(self, "world") else []
            assert sum(sequences) <= CAP or len(sequences) == 1

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if not hasattr(self, "world") or not self.there:
            return
        free = sum(self.sequences()) < self.seats
        may_fit = self.world.model.usage == 0.0 and self.world.model.info.kv_cache_tokens is None
        held = self.world.admission._lines[REPLICA].pace.wait(self.loop.time()) > 0
        if not self.engine.inside or (free and may_fit and not held):
            assert all(self.capped(one) for one in self.waiting)

    @invariant()
    def the_loop_has_no_complaints(self) -> None:
        assert self.said == []

    def capped(self, asked: Asked) -> bool:
        """Whether it or one before it would be too much for its tenant."""
        tenant = asked.demand.tenant
        running = sum(self.sequences(tenant))
        before = [one.demand.sequences for one in self.waiting if one.demand.tenant == tenant]
        return running > 0 and any(running + sequences > CAP for sequences in before)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.end()
        self.loop.close()

    @inside
    async def end(self) -> None:
        """With an engine that works, everyone is served in the end."""
        self.world.model.usage = 0.0
        self.there = True
        self.world.serve()
        for permit, _ in self.rendering:
            permit.release()
        self.rendering = []
        for _ in range(2000):
            await asyncio.sleep(0.1)
            self.look()
            self.step()
            if not self.waiting and not self.engine.inside:
                break
        admission = self.world.admission
        assert admission.inside == admission.queued == 0
        await admission.idle()
        assert timers(self.loop) == []
        line = admission._lines[REPLICA]
        assert line.gate.unstarted_tokens == 0
        assert line.prediction._unstarted == 0
        assert not line._running


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
