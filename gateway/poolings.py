"""Runs what embeds and scores: a place and tokens are held, and always given back; who hangs up, or
is still there when the grace period is over, is interrupted, and the engine is told to forget the
rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect

from engine.base import EngineDeadError, LoadedModel
from engine.pooling import Embedder
from gateway.call import Cause, InterruptedCallError, Usage, at_deadline
from gateway.deployments import Deployment, Replica
from gateway.errors import DeadlineError, draining
from gateway.exchange import Exchange
from gateway.holds import Hold, Holds
from gateway.ledger import Entry
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics
from gateway.tenants import Principal

Found = TypeVar("Found")


class Pooling:
    """One call, as its work sees it."""

    def __init__(self, hold: Hold, replica: Replica, deadline: float | None, capacity: int) -> None:
        # The engine it was given to once it was its turn.
        self.engine: LoadedModel | None = None
        self._replica = replica
        self._hold = hold
        self._deadline = deadline
        self._capacity = capacity
        self._tokens = 0

    async def begin(self, tokens: int, inputs: int) -> None:
        """Once the work's size is known, before the engine is given it. Raises APIError."""
        hold = self._hold
        if self.engine is not None:  # it is asked for again of the engine whose turn it is
            return
        pending = hold.reserve(tokens, 0)
        if pending is not None:
            await pending
        turn = hold.permit.request(
            hold.demand(tokens, min(inputs, self._capacity), 0, self._deadline)
        )
        if turn is not None:
            await turn
        hold.begin(tokens)
        self._tokens = tokens
        self.engine = self._replica.model()

    @property
    def used(self) -> Usage:
        return Usage(self._tokens, 0, 0)


class Poolings:
    """The calls that embed or score now."""

    def __init__(self, lifecycle: Lifecycle, holds: Holds, metrics: Metrics) -> None:
        self._lifecycle = lifecycle
        self._holds = holds
        self._metrics = metrics
        self._live: dict[asyncio.Future[Any], Cause | DeadlineError | None] = {}

    async def run(
        self,
        deployment: Deployment,
        principal: Principal,
        entry: Entry,
        exchange: Exchange,
        work: Callable[[Embedder, Pooling], Awaitable[Found]],
        *,
        deadline: float | None = None,
    ) -> Found:
        """What `work` finds. Raises APIError, EngineError, ClientDisconnect."""
        arrived = time.perf_counter()
        self._lifecycle.require_open()
        embedder = deployment.embedder()
        hold = self._holds.open(deployment, principal, entry)
        pooling = Pooling(hold, deployment.replica, deadline, embedder.info.max_num_seqs)
        task: asyncio.Future[Any] = asyncio.ensure_future(_done(work, embedder, pooling))
        self._live[task] = None
        timer = at_deadline(deadline, partial(self._interrupt, task))
        exchange.watch(lambda: self._interrupt(task, "disconnect"))
        failure: BaseException | None = None
        try:
            found: Found = await task
            hold.permit.started(0)
            return found
        except asyncio.CancelledError as cancelled:
            cause = self._live[task]
            if cause is None or isinstance(cause, DeadlineError):
                failure = cause or cancelled
                raise failure from None
            failure = InterruptedCallError(cause)
            self._metrics.request_aborted.labels(cause).inc()
            raise (ClientDisconnect() if cause == "disconnect" else draining()) from None
        except Exception as error:
            failure = error
            raise
        finally:
            if timer is not None:
                timer.cancel()
            exchange.watch(None)
            del self._live[task]
            hold.close(pooling.used, arrived, failure)

    def interrupt_all(self) -> None:
        """End whatever runs: the server shuts down."""
        for task in list(self._live):
            self._interrupt(task, "shutdown")

    def _interrupt(self, task: asyncio.Future[Any], cause: Cause | DeadlineError) -> None:
        if task in self._live and self._live[task] is None:
            self._live[task] = cause
            task.cancel()


async def _done(
    work: Callable[[Embedder, Pooling], Awaitable[Found]], embedder: Embedder, pooling: Pooling
) -> Found:
    """What `work` finds; where its engine died while it waited for its turn, in the next one."""
    try:
        return await work(embedder, pooling)
    except EngineDeadError:
        if pooling.engine is None or pooling.engine is embedder:
            raise
    return await work(cast(Embedder, pooling.engine), pooling)
