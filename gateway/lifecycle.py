"""Where the program stands: loading → ready → draining, or dead. Decides whether work is taken."""

from __future__ import annotations

from typing import Literal

from engine.base import Engine, EngineDeadError
from gateway.config import HealthConfig
from gateway.errors import UnavailableError, draining

State = Literal["loading", "ready", "draining", "dead"]

LOADING_RETRY_S = 5.0


class Lifecycle:
    """Holds the engine once it is loaded, and answers whether it may be used."""

    def __init__(self, health: HealthConfig) -> None:
        self._stall_s = health.stall_s
        self._engine: Engine | None = None
        self._draining = False

    def loaded(self, engine: Engine) -> None:
        self._engine = engine

    def begin_drain(self) -> None:
        self._draining = True

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def engine_or_none(self) -> Engine | None:
        """The engine whatever the state, for metrics and for closing."""
        return self._engine

    def engine(self) -> Engine:
        """The engine, for new work. Raises UnavailableError (503) while loading or draining."""
        if self._draining:
            raise draining()
        if self._engine is None:
            raise UnavailableError(
                "The model is still loading.",
                code="model_loading",
                retry_after_s=LOADING_RETRY_S,
            )
        return self._engine

    async def alive(self) -> bool:
        """False once the engine has died: only a restart helps."""
        if self._engine is None:
            return True
        try:
            await self._engine.check_health()
        except EngineDeadError:
            return False
        return True

    async def not_ready_because(self) -> str | None:
        """None where requests will be served, else one word: why not."""
        if self._draining:
            return "draining"
        if self._engine is None:
            return "loading"
        if not await self.alive():
            return "dead"
        stats = self._engine.stats()
        if stats.running and (stats.seconds_since_step or 0.0) > self._stall_s:
            return "stalled"
        return None
