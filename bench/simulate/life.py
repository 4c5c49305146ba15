"""The life of one simulated request, in the order in which the gateway's pipeline takes it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import structs

from bench.simulate.engine import Work
from bench.simulate.fairness import COMPLETION_COST, PROMPT_COST
from engine.base import EngineDeadError
from gateway.call import InterruptedCallError, Usage
from gateway.errors import APIError, DeadlineError
from gateway.holds import Hold
from gateway.ledger import Entry

if TYPE_CHECKING:
    from bench.simulate.world import Row, World

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
        self._hold: Hold | None = None
        self._failure: BaseException | None = None
        self._reserved: tuple[int, int, float] | None = None
        # By when it asked for a place; 0: it hasn't.
        self._asked = 0
        self._work: Work | None = None
        self._ended: asyncio.Future[bool] | None = None
        self._vain = 0

    async def live(self) -> None:
        """From arrival to the last line of the ledger, whatever happens."""
        row = self._row
        try:
            await self._served()
            row.outcome = "completed"
        except APIError as error:
            self._failure, row.outcome = error, f"rejected: {type(error).__name__}"
        except EngineDeadError as error:
            self._failure, row.outcome = error, "failed"
        except asyncio.CancelledError:
            self._failure, row.outcome = InterruptedCallError("disconnect"), "cancelled"
        finally:
            self._close()
            row.ended_at = self._world.loop.time()
            self._note(row.outcome or "?")

    async def _served(self) -> None:
        """Raises APIError; EngineDeadError where that had begun with it."""
        world, ask = self._world, self._ask
        world.serving()
        entry = Entry(str(self._number), ask.principal.name, "simulated", world.wall())
        self._hold = hold = world.holds.open(world.deployment, self._principal, entry)
        world.opened.append(entry)
        hold.permit.progress = self._progress
        await asyncio.sleep(ask.render_s)
        await self._reserve(hold)
        while True:
            await self._turn(hold)
            if await self._generated(hold):
                return
            if self._work is not None and self._work.began:
                raise EngineDeadError
            self._note("has to start again")
            hold.permit.requeue()

    async def _reserve(self, hold: Hold) -> None:
        world, ask = self._world, self._ask
        completion = ask.max_tokens * len(ask.completions)
        pending = hold.reserve(ask.prompt_tokens, completion)
        if pending is not None:
            await pending
        tokens = ask.prompt_tokens + completion
        cost = world.scenario.price.cost(ask.prompt_tokens, 0, completion)
        self._reserved = (tokens, cost, world.wall())
        world.allowance.reserve(ask.principal.accounts, tokens, cost, world.wall())

    async def _turn(self, hold: Hold) -> None:
        """Wait in the queue. Raises OverloadedError, DeadlineError, UnavailableError."""
        world, ask = self._world, self._ask
        deadline = None if ask.timeout_s is None else self._arrived + ask.timeout_s
        choices = len(ask.completions)
        demand = hold.demand(ask.prompt_tokens, choices, ask.max_tokens * choices, deadline)
        self._asked = self._asked or world.starts.ask()
        waiting = hold.permit.request(demand)
        if waiting is None:
            self._note("goes at once")
            return
        self._note("waits")
        world.watch.wait(self.tenant)
        world.starts.wait(demand, self._asked, waiting)
        try:
            await waiting
        finally:
            world.watch.leave(self.tenant)
            world.starts.leave(demand, self._asked, waiting)
        self._note("goes")
        if deadline is not None and world.loop.time() > deadline + 1e-9:
            world.violated(f"request {self._number} was started after its deadline")

    async def _generated(self, hold: Hold) -> bool:
        """Whether the engine came to the end of it."""
        world, ask = self._world, self._ask
        engine = world.engine
        if engine is None:
            await self._in_vain()
            return False
        self._vain = 0
        hold.begin(ask.prompt_tokens)
        self._row.starts += 1
        priority = int(ask.principal.priority == "batch")
        self._work = Work(self, ask.prompt_tokens, ask.cached_tokens, ask.completions, priority)
        self._ended = world.loop.create_future()
        world.watch.serve(self.tenant, self._prompt_service)
        world.starts.start(hold.permit.demand, self._asked)
        engine.submit(self._work)
        world.check_room(engine)
        try:
            died = await self._ended
        except asyncio.CancelledError:
            engine.abort(self._work)
            raise
        finally:
            world.starts.end(hold.permit.demand)
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
        if self._hold is not None:
            self._hold.permit.started(cached_tokens)

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
        world, row, hold = self._world, self._row, self._hold
        if hold is None:
            return
        used = Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens)
        hold.close(used, self._arrived, self._failure)
        row.queued_s = hold.permit.queued_s
        world.charges.ended(hold.permit, used)
        if self._work is not None and not self._work.began and row.outcome == "cancelled":
            world.watch.serve(self.tenant, -self._prompt_service)
        if self._reserved is not None:
            accounts = self._ask.principal.accounts
            world.allowance.settle(accounts, self._reserved, self._kept(used), world.wall())

    def _kept(self, used: Usage) -> tuple[int, int] | None:
        """Tokens and cost that don't come back; None: the request doesn't count, either. Who hangs
        up while his prompt is read pays for all of it, as nobody can tell how much was."""
        gone = isinstance(self._failure, InterruptedCallError)
        if not self._row.starts:
            return (0, 0) if gone else None
        if not used.total_tokens and (gone or isinstance(self._failure, DeadlineError)):
            used = Usage(self._ask.prompt_tokens, 0, 0)
        price = self._world.scenario.price
        cost = price.cost(used.prompt_tokens, used.cached_tokens, used.completion_tokens)
        return used.total_tokens, cost

    def _note(self, what: str) -> None:
        self._world.note(f"{self.tenant} #{self._number}: {what}")
