"""Where the program stands, and each of its models. Decides whether work is taken."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final, Literal

from engine.base import LoadedModel
from gateway.config import HealthConfig
from gateway.deployments import Deployments, Replica
from gateway.errors import draining

State = Literal["loading", "ready", "restarting", "draining", "dead", "stalled"]

_LOOK_S: Final = 0.5
# Less CPU time than this, of each second, is no work: threads that wake up to see there is none.
_IDLE_SHARE: Final = 0.02
_WORST_FIRST: Final[tuple[State, ...]] = ("dead", "loading", "restarting", "stalled")


class Pulse:
    """Whether an engine computes, by the CPU time its processes use. Pure.

    A long prefill is one step: no token comes of it for long, but it computes. An engine that
    hangs, or that is held by a signal, doesn't.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._looks: deque[tuple[float, float]] = deque()

    def look(self, now: float, cpu_s: float) -> None:
        """So much CPU time has been used until `now`; a new engine begins at little."""
        looks = self._looks
        if looks and cpu_s < looks[-1][1]:
            looks.clear()
        looks.append((now, cpu_s))
        while len(looks) > 1 and looks[1][0] <= now - self._window_s:
            looks.popleft()

    def silent(self, now: float, cpu_s: float) -> bool:
        """Whether it is known that it has done nothing for the window's time."""
        if not self._looks:
            return False
        since, before = self._looks[0]
        passed = now - since
        return passed >= self._window_s and cpu_s - before < _IDLE_SHARE * passed


class Lifecycle:
    """Answers for all replicas together: ready is who has them all."""

    def __init__(
        self,
        health: HealthConfig,
        deployments: Deployments,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._health = health
        self._deployments = deployments
        self._clock = clock
        self._draining = False
        self._pulses: defaultdict[str, Pulse] = defaultdict(lambda: Pulse(health.freeze_s))

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
        """False once an engine is given up: only a new start of the program helps."""
        return "dead" not in (await self.states()).values()

    async def states(self) -> dict[str, State]:
        """Of each model, by its public name."""
        return {replica.name: self._state(replica) for replica in self._deployments.replicas}

    async def not_ready_because(self) -> str | None:
        """None where every model can be asked, else one word: why not."""
        if self._draining:
            return "draining"
        states = (await self.states()).values()
        return next((bad for bad in _WORST_FIRST if bad in states), None)

    async def watch(self) -> None:
        """Look at every engine now and then, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Note how far every engine's processes are."""
        now = self._clock()
        for replica in self._deployments.replicas:
            activity = replica.loaded.activity() if replica.loaded is not None else None
            if activity is not None:
                self._pulses[replica.name].look(now, activity.cpu_s)

    def _state(self, replica: Replica) -> State:
        if replica.state != "ready" or replica.loaded is None:
            return replica.state
        return "stalled" if self._stalled(replica.name, replica.loaded) else "ready"

    def _stalled(self, name: str, engine: LoadedModel) -> bool:
        activity = engine.activity()
        if activity is not None and activity.stopped:
            return True
        stats = engine.stats()
        since_step = stats.seconds_since_step or 0.0
        if not stats.running + stats.waiting or since_step <= self._health.freeze_s:
            return bool(stats.running) and since_step > self._health.stall_s
        silent = activity is not None and self._pulses[name].silent(self._clock(), activity.cpu_s)
        return silent or since_step > self._health.stall_s
