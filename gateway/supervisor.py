"""Keeps every replica's engine running: loads them, and starts another where one has died.

::

    load ──► serves ──► died ──► pause ──► start again ──► serves
                                   ▲            │
                                   └── failed ──┘   … too often in a row: given up
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from engine.base import EngineError, EngineStartError, LoadedModel, StartPhase
from engine.config import EngineConfig
from gateway.adapters import Adapters
from gateway.config import HealthConfig
from gateway.deployments import Replica

logger = logging.getLogger(__name__)

StartEngine = Callable[
    [EngineConfig, Callable[[StartPhase | str], None] | None, str], Awaitable[LoadedModel]
]

# An engine that served so long is well: what it died of later is another matter.
SETTLED_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 60.0


class Restarts:
    """How often in a row an engine is started again, and after what pauses. Pure."""

    def __init__(self, health: HealthConfig) -> None:
        self._most = health.restarts
        self._pause_s = health.restart_pause_s
        self._in_a_row = 0

    def next_pause(self, served_s: float) -> float | None:
        """Seconds until the next start; None: no further one. The last engine served for
        `served_s`, 0 where it didn't even start."""
        if served_s >= SETTLED_S:
            self._in_a_row = 0
        if self._in_a_row >= self._most:
            return None
        pause_s: float = min(self._pause_s * 2**self._in_a_row, _LONGEST_PAUSE_S)
        self._in_a_row += 1
        return pause_s


class Supervisor:
    """Owns the engines of `replicas`. `given_up` is called once none of them will serve again."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        adapters: Adapters,
        health: HealthConfig,
        start: StartEngine,
        given_up: Callable[[], None],
    ) -> None:
        self._replicas = replicas
        self._adapters = adapters
        self._health = health
        self._start = start
        self._given_up = given_up
        self._stopping = False
        # vLLM measures the free memory while it loads: one at a time.
        self._starting = asyncio.Lock()
        self._keeping: dict[str, asyncio.Task[None]] = {}
        # Every engine that is still to be closed.
        self._engines: set[LoadedModel] = set()

    async def load(self, replica: Replica) -> None:
        """Load its first engine, and watch over it from then on. Raises EngineStartError."""
        begun = time.monotonic()
        engine = await self._load(replica, replica.config.engine_to_start)
        keeping = self._keep(replica, engine, time.monotonic() - begun)
        self._keeping[replica.name] = asyncio.create_task(keeping, name=f"engine {replica.name}")

    def stop(self) -> None:
        """Start nothing any more; whoever waits for a start is told it is over."""
        self._stopping = True
        for replica in self._replicas:
            keeping = self._keeping.get(replica.name)
            if keeping is not None and replica.loaded is None:
                keeping.cancel()
                replica.give_up()

    async def close(self) -> None:
        """Close every engine, whatever state it is in."""
        for task in self._keeping.values():
            if not task.cancelling():  # else a start is being undone, which must not be cut short
                task.cancel()
        await asyncio.gather(*self._keeping.values(), return_exceptions=True)
        await asyncio.gather(*(engine.close() for engine in self._engines))
        self._engines.clear()

    async def _keep(self, replica: Replica, engine: LoadedModel, took_s: float) -> None:
        restarts = Restarts(self._health)
        while True:
            since = time.monotonic()
            await engine.died()
            logger.error("the engine of %s has died", replica.name)
            replica.lost(engine)
            pause_s = restarts.next_pause(time.monotonic() - since)
            replica.expect((pause_s or 0.0) + took_s)
            await self._close(engine)
            while True:
                if pause_s is None or self._stopping:
                    self._give_up(replica)
                    return
                replica.expect(pause_s + took_s)
                await asyncio.sleep(pause_s)
                begun = time.monotonic()
                again = await self._load_again(replica)
                if again is not None:
                    engine, took_s = again, time.monotonic() - begun
                    break
                pause_s = restarts.next_pause(0.0)

    async def _load_again(self, replica: Replica) -> LoadedModel | None:
        """None where it can't be started."""
        logger.info("starting the engine of %s again", replica.name)
        try:
            engine = await self._load(replica, replica.config.engine_to_start.restarted)
        except EngineError as error:
            logger.error("the engine of %s could not start: %s", replica.name, error)
            return None
        except Exception:
            logger.exception("the engine of %s could not start", replica.name)
            return None
        logger.info("ready again: %s", replica.name)
        return engine

    async def _load(self, replica: Replica, config: EngineConfig) -> LoadedModel:
        async with self._starting:
            engine = await self._start(config, _report, replica.name)
            self._engines.add(engine)
            try:
                await self._adapters.restore(replica, engine)
                if not engine.alive:
                    raise EngineStartError("it died while its adapters were loaded")
            except BaseException:
                await self._close(engine)
                raise
            replica.loaded = engine
            return engine

    async def _close(self, engine: LoadedModel) -> None:
        try:
            await engine.close()
        except Exception:  # the next one is to be started all the same
            logger.exception("an engine could not be closed")
        self._engines.discard(engine)

    def _give_up(self, replica: Replica) -> None:
        logger.error("the engine of %s is given up", replica.name)
        replica.give_up()
        if all(other.state == "dead" for other in self._replicas):
            self._given_up()


def _report(progress: StartPhase | str) -> None:
    if isinstance(progress, StartPhase):
        logger.info("%s took %.1f s", progress.name, progress.seconds)
    else:
        logger.info("%s", progress)
