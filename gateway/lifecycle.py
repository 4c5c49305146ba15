"""Where the program stands: loading → ready → draining, or dead. Decides whether work is taken."""

from __future__ import annotations

from typing import Literal

from engine.base import EngineDeadError
from gateway.config import HealthConfig
from gateway.deployments import Deployments, Replica
from gateway.errors import draining

State = Literal["loading", "ready", "draining", "dead", "stalled"]


class Lifecycle:
    """Answers for all replicas together: ready is who has them all."""

    def __init__(self, health: HealthConfig, deployments: Deployments) -> None:
        self._stall_s = health.stall_s
        self._deployments = deployments
        self._draining = False

    def begin_drain(self) -> None:
        self._draining = True

    @property
    def draining(self) -> bool:
        return self._draining

    def require_open(self) -> None:
        """Raises UnavailableError (503) while draining."""
        if self._draining:
            raise draining()

    async def alive(self) -> bool:
        """False once an engine has died: only a restart helps."""
        return "dead" not in (await self.states()).values()

    async def states(self) -> dict[str, State]:
        """Of each model, by its public name."""
        return {replica.name: await self._state(replica) for replica in self._deployments.replicas}

    async def not_ready_because(self) -> str | None:
        """None where every model can be asked, else one word: why not."""
        if self._draining:
            return "draining"
        states = (await self.states()).values()
        return next((bad for bad in ("dead", "loading", "stalled") if bad in states), None)

    async def _state(self, replica: Replica) -> State:
        if replica.loaded is None:
            return "loading"
        try:
            await replica.loaded.check_health()
        except EngineDeadError:
            return "dead"
        stats = replica.loaded.stats()
        if stats.running and (stats.seconds_since_step or 0.0) > self._stall_s:
            return "stalled"
        return "ready"
