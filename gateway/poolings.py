"""Runs what embeds and scores: a place and tokens are held, and always given back; who hangs up, or
is still there when the grace period is over, or whose engine stands still, is interrupted, and the
engine is told to forget the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect

from engine.base import EngineDeadError, LoadedModel
from engine.pooling import Embedder
from gateway.call import InterruptedCallError, Usage, at_deadline
from gateway.config import AdmissionConfig
from gateway.deployments import Deployment, Replica
from gateway.errors import draining
from gateway.exchange import Exchange
from gateway.holds import Hold, Holds
from gateway.ledger import Entry
from gateway.lifecycle import Lifecycle
from gateway.live import Live
from gateway.metrics import Metrics
from gateway.tenants import Principal

Found = TypeVar("Found")


class Pooling:
    """One call, as its work sees it. Implements `gateway.live.Running`."""

    def __init__(self, hold: Hold, replica: Replica, deadline: float | None, capacity: int) -> None:
        # The engine it was given to once it was its turn.
        self.engine: LoadedModel | None = None
        # Why it was ended from outside, if it was.
        self.ended: Exception | None = None
        self._replica = replica
        self._hold = hold
        self._deadline = deadline
        self._capacity = capacity
        self._read = 0
        self._task: asyncio.Future[Any] | None = None

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
        engine = self._replica.model()
        hold.begin(tokens)
        self.engine = engine

    def read(self, tokens: int) -> None:
        """The engine has read so many more. Who hangs up, or whose engine fails, has used those of
        the inputs that were finished."""
        self._read += tokens

    @property
    def used(self) -> Usage:
        return Usage(self._read, 0, 0)

    @property
    def submitted(self) -> bool:
        return self.engine is not None

    def produced(self) -> int:
        """Tokens read so far."""
        return self._read

    def stands_still(self, seconds: float) -> bool:
        """Also while others are served, a step ends with each of them."""
        since = self.engine.stats().seconds_since_step if self.engine is not None else None
        return since is not None and since >= seconds

    def run(self, work: Awaitable[Found]) -> asyncio.Future[Found]:
        """Begin; what is returned is cancelled by `fail`, and `ended` says why."""
        task = self._task = asyncio.ensure_future(work)
        return task

    def fail(self, error: Exception) -> None:
        """End it, unless it was already."""
        if self.ended is None and self._task is not None:
            self.ended = error
            self._task.cancel()


class Poolings:
    """The calls that embed or score now."""

    def __init__(
        self, config: AdmissionConfig, lifecycle: Lifecycle, holds: Holds, metrics: Metrics
    ) -> None:
        self._lifecycle = lifecycle
        self._holds = holds
        self._metrics = metrics
        self._live: Live[Pooling] = Live(config.stall_timeout_s)

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
        task = pooling.run(_done(work, embedder, pooling))
        self._live.add(pooling)
        timer = at_deadline(deadline, pooling.fail)
        exchange.watch(lambda: pooling.fail(InterruptedCallError("disconnect")))
        failure: BaseException | None = None
        try:
            found = await task
            hold.permit.started(0)
            return found
        except asyncio.CancelledError as cancelled:
            failure = pooling.ended or cancelled
            if not isinstance(failure, InterruptedCallError):
                raise failure from None
            self._metrics.request_aborted.labels(failure.cause).inc()
            raise (ClientDisconnect() if failure.cause == "disconnect" else draining()) from None
        except Exception as error:
            failure = error
            raise
        finally:
            if timer is not None:
                timer.cancel()
            exchange.watch(None)
            self._live.discard(pooling)
            self._metrics.prompt_tokens.inc(pooling.used.prompt_tokens)
            hold.close(pooling.used, arrived, failure)

    def interrupt_all(self) -> None:
        """End whatever runs: the server shuts down."""
        for pooling in self._live:
            pooling.fail(InterruptedCallError("shutdown"))


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
