"""The life of one simulated request, in the order in which the gateway's pipeline takes it."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from msgspec import structs

from bench.simulate.engine import Work
from bench.simulate.fairness import COMPLETION_COST, PROMPT_COST
from gateway.admission import Demand, Permit
from gateway.errors import APIError
from gateway.limits import Reservation

if TYPE_CHECKING:
    from bench.simulate.world import Row, World

REPLICA = "model/0"
EVERYONE = "everyone"


class Life:
    """One request. It is the engine's customer."""

    def __init__(self, world: World, number: int, row: Row) -> None:
        self.tenant = row.ask.principal.tenant
        self._world = world
        self._number = number
        self._row = row
        self._ask = row.ask
        self._principal = row.ask.principal
        if world.scenario.first_come:
            self._principal = structs.replace(
                self._principal, owner=EVERYONE, weight=1.0, priority="online"
            )
        self._arrived = world.loop.time()
        self._permit: Permit | None = None
        self._reservation: Reservation | None = None
        self._reserved = (0, 0, 0.0)
        self._work: Work | None = None
        self._ended: asyncio.Future[bool] | None = None
        self._vain = 0

    async def live(self) -> None:
        """From arrival to the last line of the ledger, whatever happens."""
        row = self._row
        try:
            row.outcome = await self._served()
        except APIError as error:
            row.outcome = f"rejected: {type(error).__name__}"
        except asyncio.CancelledError:
            row.outcome = "cancelled"
        finally:
            self._close()
            row.ended_at = self._world.loop.time()
            self._note(row.outcome or "?")

    async def _served(self) -> str:
        world, ask = self._world, self._ask
        world.serving()
        self._permit = permit = world.admission.enter(REPLICA, self._principal)
        permit.progress = self._progress
        world.limiter.check(ask.principal.accounts)
        await asyncio.sleep(ask.render_s)
        await self._reserve()
        while True:
            await self._turn(permit)
            if await self._generated():
                return "completed"
            if self._work is not None and self._work.began:
                return "failed"
            self._note("has to start again")
            permit.requeue()

    async def _reserve(self) -> None:
        world, ask = self._world, self._ask
        completion = ask.max_tokens * len(ask.completions)
        tokens = ask.prompt_tokens + completion
        cost = world.scenario.price.cost(ask.prompt_tokens, 0, completion)
        accounts = ask.principal.accounts
        found = world.limiter.reserve(accounts, tokens, cost)
        self._reservation = await found if inspect.isawaitable(found) else found
        self._reserved = (tokens, cost, world.wall())
        world.allowance.reserve(accounts, tokens, cost, world.wall())

    async def _turn(self, permit: Permit) -> None:
        """Wait in the queue. Raises OverloadedError, DeadlineError, UnavailableError."""
        world, ask = self._world, self._ask
        deadline = None if ask.timeout_s is None else self._arrived + ask.timeout_s
        demand = Demand(
            tenant=self._principal.tenant,
            weight=self._principal.weight,
            priority=self._principal.priority,
            prompt_tokens=ask.prompt_tokens,
            sequences=len(ask.completions),
            max_tokens=ask.max_tokens * len(ask.completions),
            deadline=deadline,
        )
        waiting = permit.request(demand)
        if waiting is None:
            self._note("goes at once")
            return
        self._note("waits")
        world.watch.wait(self.tenant)
        try:
            await waiting
        finally:
            world.watch.leave(self.tenant)
        self._note("goes")
        if deadline is not None and world.loop.time() > deadline + 1e-9:
            world.violated(f"request {self._number} was started after its deadline")

    async def _generated(self) -> bool:
        """Whether the engine came to the end of it."""
        world, ask = self._world, self._ask
        engine = world.engine
        if engine is None:
            await self._in_vain()
            return False
        self._vain = 0
        self._row.starts += 1
        priority = int(ask.principal.priority == "batch")
        self._work = Work(self, ask.prompt_tokens, ask.cached_tokens, ask.completions, priority)
        self._ended = world.loop.create_future()
        world.watch.serve(self.tenant, self._prompt_service)
        engine.submit(self._work)
        world.check_room(engine)
        try:
            died = await self._ended
        except asyncio.CancelledError:
            engine.abort(self._work)
            raise
        return not died

    async def _in_vain(self) -> None:
        """It was let go just when the engine died, which can't happen twice in a row."""
        self._vain += 1
        if self._vain > 1:
            self._world.violated(f"request {self._number} was let go to an engine that is away")
            await asyncio.sleep(1.0)

    @property
    def _prompt_service(self) -> float:
        return PROMPT_COST * (self._ask.prompt_tokens - self._ask.cached_tokens)

    def began(self, cached_tokens: int) -> None:
        row = self._row
        row.ttft_s = self._world.loop.time() - self._arrived
        row.prompt_tokens, row.cached_tokens = self._ask.prompt_tokens, cached_tokens
        if self._permit is not None:
            self._permit.started(cached_tokens)

    def produced(self) -> None:
        self._row.completion_tokens += 1
        self._world.watch.serve(self.tenant, COMPLETION_COST)

    def ended(self, *, died: bool) -> None:
        if self._work is not None and not self._work.began:
            self._world.watch.serve(self.tenant, -self._prompt_service)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(died)

    def _progress(self) -> int:
        return self._row.completion_tokens

    def _close(self) -> None:
        """Everything back, exactly once."""
        world, row = self._world, self._row
        if self._permit is not None:
            row.queued_s = self._permit.queued_s
            self._permit.release()
        if self._work is not None and not self._work.began and row.outcome == "cancelled":
            world.watch.serve(self.tenant, -self._prompt_service)
        if self._reservation is None:
            return
        accounts = self._ask.principal.accounts
        if self._work is None or not self._work.began:
            self._reservation.cancel()
            world.allowance.settle(accounts, self._reserved, None, world.wall())
            return
        tokens = row.prompt_tokens + row.completion_tokens
        cost = world.scenario.price.cost(
            row.prompt_tokens, row.cached_tokens, row.completion_tokens
        )
        self._reservation.settle(tokens, cost)
        world.allowance.settle(accounts, self._reserved, (tokens, cost), world.wall())

    def _note(self, what: str) -> None:
        self._world.note(f"{self.tenant} #{self._number}: {what}")
