"""What tenants get of an engine that never has enough for all, over time."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulate.loop import VirtualLoop
from tests.admission.scripted import Engine
from tests.admission.world import Asked, World, virtually

STEP_S = 0.05


class Tenant:
    """Always has requests waiting, of its own kind."""

    def __init__(
        self,
        name: str,
        *,
        weight: float = 1.0,
        prompts: tuple[int, int] = (10, 100),
        completions: tuple[int, int] = (5, 40),
        cached: float = 0.0,
    ) -> None:
        self.name = name
        self.weight = weight
        self.prompts = prompts
        self.completions = completions
        self.cached = cached
        self.asked: list[Asked] = []

    def fill(self, world: World, chance: random.Random) -> None:
        while sum(one.waiting for one in self.asked) < 3:
            tokens = chance.randint(*self.prompts)
            self.asked.append(world.ask(self.name, weight=self.weight, prompt_tokens=tokens))


class Contest:
    """Tenants before one engine."""

    def __init__(self, world: World, seats: int, seed: int = 0, margin: float = 0.0) -> None:
        world.set_up(seats=seats, margin=margin)
        self.world = world
        self.engine = Engine(seats)
        self.chance = random.Random(seed)
        self.longest = 0

    async def step(self, *tenants: Tenant) -> None:
        """Fill the queue, let in who may go, make one step."""
        for tenant in tenants:
            tenant.fill(self.world, self.chance)
            for one in [one for one in tenant.asked if one.going]:
                tenant.asked.remove(one)
                length = one.demand.prompt_tokens
                self.longest = max(self.longest, length)
                completion = self.chance.randint(*tenant.completions)
                self.engine.submit(one, completion, int(length * tenant.cached))
        await asyncio.sleep(STEP_S)
        for work in self.engine.step():
            work.asked.end()

    def end(self, *tenants: Tenant) -> None:
        for work in self.engine.inside:
            work.asked.end()
        for tenant in tenants:
            for one in tenant.asked:
                one.end()

    def bound(self, *tenants: Tenant) -> float:
        """2U of the paper's theorem 4.4."""
        weight = min(tenant.weight for tenant in tenants)
        return 2 * max(self.longest, 2 * self.engine.most_tokens) / weight

    def gap(self, a: Tenant, b: Tenant) -> float:
        service = self.engine.service
        return service.get(a.name, 0.0) - service.get(b.name, 0.0)


lengths = st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda pair: (min(pair), max(pair)))
tenants = st.builds(
    Tenant,
    name=st.just(""),
    weight=st.sampled_from([1.0, 2.0, 4.0]),
    prompts=lengths,
    completions=lengths,
    cached=st.sampled_from([0.0, 0.5, 0.9]),
)


@given(
    a=tenants,
    b=tenants,
    c=tenants,
    seats=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25)
def test_the_gap_between_two_who_always_wait_is_within_the_bound(
    a: Tenant, b: Tenant, c: Tenant, seats: int, seed: int
) -> None:
    a.name, b.name, c.name = "a", "b", "c"
    loop = VirtualLoop()

    async def play() -> None:
        contest = Contest(World(loop), seats, seed)
        gaps = []
        for step in range(600):
            others = [c] if step % 200 < 100 else []  # who comes and goes
            await contest.step(a, b, *others)
            gaps.append(contest.gap(a, b))
        assert max(gaps) - min(gaps) <= contest.bound(a, b)
        contest.end(a, b, c)

    try:
        loop.play(play())
    finally:
        loop.close()


@virtually
async def test_weights_are_shares_of_the_service(world: World) -> None:
    three = [
        Tenant("one", weight=1.0),
        Tenant("two", weight=2.0, prompts=(200, 300), completions=(2, 5)),
        Tenant("four", weight=4.0, prompts=(1, 5), completions=(30, 60)),
    ]
    contest = Contest(world, 8, margin=0.125)
    for _ in range(8000):
        await contest.step(*three)
    shares = [contest.engine.service[tenant.name] for tenant in three]
    assert max(shares) / min(shares) < 1.05
    contest.end(*three)


@virtually
async def test_who_was_away_gets_no_more_than_who_stayed(world: World) -> None:
    stayed, away = Tenant("stayed"), Tenant("away")
    contest = Contest(world, 4)
    await contest.step(stayed, away)
    for _ in range(500):
        await contest.step(stayed)
    before = contest.gap(stayed, away)
    for _ in range(300):
        await contest.step(stayed, away)
        assert abs(contest.gap(stayed, away) - before) <= contest.bound(stayed, away)
    contest.end(stayed, away)


@virtually
async def test_a_light_tenant_waits_for_one_dispatch_of_each_flood_at_most(world: World) -> None:
    floods = [Tenant("x"), Tenant("y"), Tenant("z")]
    contest = Contest(world, 4)
    for _ in range(50):
        await contest.step(*floods)
    for _ in range(20):
        light = world.ask("light")
        waiting = {one for flood in floods for one in flood.asked}
        while not light.going:
            await contest.step(*floods)
        passed = [work for work in contest.engine.inside if work.asked in waiting]
        assert len(passed) <= len(floods)
        contest.engine.submit(light, 5)
        for _ in range(40):
            await contest.step(*floods)
    contest.end(*floods)


@virtually
async def test_a_flood_is_served_however_many_others_come_once(world: World) -> None:
    flood = Tenant("flood")
    contest = Contest(world, 2)
    for _ in range(200):
        await contest.step(flood)
    before = contest.engine.service["flood"]
    once: list[Asked] = []
    for step in range(2000):
        # Three times as many as can be served, each for a seat for one step.
        once += [world.ask(f"tenant {step % 40} {number}", prompt_tokens=1) for number in range(6)]
        for one in [one for one in once if one.going]:
            once.remove(one)
            contest.engine.submit(one, 1)
        for one in once[:-40]:
            one.end()
        del once[:-40]
        await contest.step(flood)
    assert contest.engine.service["flood"] > before + 100
    for one in once:
        one.end()
    contest.end(flood)
