"""Runs what embeds and scores: a permit is taken, and always given back; who hangs up, or is still
there when the grace period is over, is interrupted, and the engine is told to forget the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from engine.pooling import Embedder
from gateway.admission import Admission
from gateway.deployments import Deployment
from gateway.errors import draining
from gateway.exchange import Exchange
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics
from gateway.pipeline import Cause

Found = TypeVar("Found")


class Poolings:
    """The calls that embed or score now."""

    def __init__(self, lifecycle: Lifecycle, admission: Admission, metrics: Metrics) -> None:
        self._lifecycle = lifecycle
        self._admission = admission
        self._metrics = metrics
        self._live: dict[asyncio.Future[Any], Cause | None] = {}

    async def run(
        self,
        deployment: Deployment,
        exchange: Exchange,
        work: Callable[[Embedder], Awaitable[Found]],
    ) -> Found:
        """What `work` finds. Raises APIError, EngineError, ClientDisconnect."""
        self._lifecycle.require_open()
        embedder = deployment.embedder()
        permit = self._admission.acquire()
        deployment.enter()
        task: asyncio.Future[Any] = asyncio.ensure_future(work(embedder))
        self._live[task] = None
        exchange.watch(lambda: self._interrupt(task, "disconnect"))
        try:
            found: Found = await task
            return found
        except asyncio.CancelledError:
            cause = self._live[task]
            if cause is None:
                raise
            self._metrics.request_aborted.labels(cause).inc()
            raise (ClientDisconnect() if cause == "disconnect" else draining()) from None
        finally:
            exchange.watch(None)
            del self._live[task]
            permit.release()
            deployment.leave()

    def interrupt_all(self) -> None:
        """End whatever runs: the server shuts down."""
        for task in list(self._live):
            self._interrupt(task, "shutdown")

    def _interrupt(self, task: asyncio.Future[Any], cause: Cause) -> None:
        if task in self._live and self._live[task] is None:
            self._live[task] = cause
            task.cancel()
