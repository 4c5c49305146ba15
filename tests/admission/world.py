"""An engine that does what a test says, and requests to it, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import cast

from bench.simulate.loop import VirtualLoop
from engine.base import EngineInfo, EngineStats, LoadedModel
from gateway.admission import Admission, Demand, Permit
from gateway.config import AdmissionConfig
from gateway.tenants import Principal, Priority

REPLICA = "model"


def virtually(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """Run a test on a virtual clock, in a world of its own. Nothing may be left in it."""

    @wraps(test)
    def run() -> None:
        loop = VirtualLoop()
        said: list[str] = []
        loop.set_exception_handler(lambda _, context: said.append(context["message"]))

        async def play() -> None:
            await test(World(loop))

        try:
            loop.play(play())
            assert said == []
            assert timers(loop) == []
        finally:
            loop.close()

    del run.__wrapped__  # its argument is no fixture
    return run


def timers(loop: VirtualLoop) -> list[asyncio.TimerHandle]:
    """What is still to come."""
    return [timer for timer in loop._scheduled if not timer.cancelled()]


class Model:
    """The part of a loaded model that admission looks at."""

    def __init__(
        self, seats: int, kv_tokens: int | None = None, copies: int = 1, spare: int = 0
    ) -> None:
        self.usage = 0.0
        self.info = EngineInfo(
            model="m",
            engine="scripted",
            version="1",
            architecture="none",
            dtype="none",
            quantization=None,
            device="none",
            max_model_len=4096,
            vocab_size=256,
            max_num_seqs=seats,
            kv_cache_tokens=kv_tokens,
            copies=copies,
            spare_seqs=spare,
        )

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, self.usage, 0, 0, 0.0, None)


def demand(
    tenant: str = "a",
    *,
    weight: float = 1.0,
    priority: Priority = "online",
    prompt_tokens: int = 10,
    sequences: int = 1,
    deadline: float | None = None,
) -> Demand:
    return Demand(tenant, weight, priority, prompt_tokens, sequences, 100, deadline)


def principal(tenant: str, priority: Priority = "online", weight: float = 1.0) -> Principal:
    return Principal(tenant, tenant, priority=priority, weight=weight)


class Asked:
    """A request that was made, and the turn it got. `produced` are its completion tokens."""

    def __init__(self, permit: Permit, wanted: Demand) -> None:
        self.permit = permit
        self.demand = wanted
        self.produced = 0
        permit.progress = lambda: self.produced
        self.turn = permit.request(wanted)

    def again(self) -> None:
        """Its engine is gone: back to the queue."""
        self.permit.requeue()
        self.turn = self.permit.request(self.demand)

    def end(self) -> None:
        self.permit.release()

    @property
    def going(self) -> bool:
        """Whether it was let go."""
        turn = self.turn
        return turn is None or (turn.done() and not turn.cancelled() and not turn.exception())

    @property
    def waiting(self) -> bool:
        return self.turn is not None and not self.turn.done()

    @property
    def refused(self) -> BaseException | None:
        turn = self.turn
        return turn.exception() if turn and turn.done() and not turn.cancelled() else None


def end_all(*asked: Asked) -> None:
    for one in asked:
        one.end()


class World:
    """Admission before one scripted engine of two seats, until `set_up` says otherwise."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.set_up()

    def set_up(
        self,
        seats: int = 2,
        *,
        kv_tokens: int | None = None,
        copies: int = 1,
        spare: int = 0,
        margin: float = 0.0,
        **config: object,
    ) -> None:
        settings = AdmissionConfig.model_validate({"margin": margin, **config})
        self.model = Model(seats, kv_tokens, copies, spare)
        self.admission = Admission(settings, self.loop.time)
        self.serve()

    def serve(self) -> None:
        self.admission.serve(REPLICA, cast(LoadedModel, self.model))

    def away(self) -> None:
        self.admission.serve(REPLICA, None)

    def enter(
        self, tenant: str = "a", *, priority: Priority = "online", returning: bool | None = None
    ) -> Permit:
        who = principal(tenant, priority)
        return self.admission.enter(REPLICA, who, returning=returning)

    def ask(
        self,
        tenant: str = "a",
        *,
        weight: float = 1.0,
        priority: Priority = "online",
        prompt_tokens: int = 10,
        sequences: int = 1,
        deadline: float | None = None,
    ) -> Asked:
        """Enter and request at once."""
        who = principal(tenant, priority, weight)
        wanted = demand(
            tenant,
            weight=weight,
            priority=priority,
            prompt_tokens=prompt_tokens,
            sequences=sequences,
            deadline=deadline,
        )
        return Asked(self.admission.enter(REPLICA, who), wanted)

    async def run_full(self, turnovers: int = 3, seconds: float = 1.0) -> list[Asked]:
        """Have the engine be full for a while, one request after the other taking `seconds` in all
        seats; returns those that run and the one that waits."""
        seats = self.model.info.max_num_seqs
        asked = [self.ask("warm") for _ in range(seats + 1)]
        for one in asked[:seats]:
            one.permit.started(0)
        for _ in range(turnovers * seats):
            await asyncio.sleep(seconds / seats)
            asked.pop(0).end()
            asked[seats - 1].permit.started(0)
            asked.append(self.ask("warm"))
        return asked
