"""What every call goes through: it is admitted, generates, and leaves nothing behind.

What happens in between is `generation.Generation`; what it holds meanwhile is `holds.Hold`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from gateway.call import Call
from gateway.config import GatewayConfig
from gateway.errors import UnavailableError
from gateway.generation import Generation
from gateway.holds import Holds
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics

_LOOKS_PER_STALL: Final = 4
_STALLED_RETRY_S: Final = 5.0


class Pipeline:
    """Turns calls into generations, and ends those that stand still."""

    def __init__(
        self, config: GatewayConfig, lifecycle: Lifecycle, holds: Holds, metrics: Metrics
    ) -> None:
        self._lifecycle = lifecycle
        self._holds = holds
        self._metrics = metrics
        self._resume_s = config.health.resume_s
        self._stall_s = config.admission.stall_timeout_s
        self._live: dict[Generation, tuple[int, float]] = {}
        self._look: asyncio.TimerHandle | None = None

    def admit(self, call: Call) -> Generation:
        """A generation that is still to begin; it holds a permit and has to be closed with `leave`.

        Raises APIError where the call is not admitted.
        """
        self._lifecycle.require_open()
        engine = call.deployment.engine()
        hold = self._holds.open(call.deployment, call.principal, call.entry, call.returning)
        generation = Generation(engine, call, hold, self._metrics, self._resume_s)
        self._live[generation] = (0, 0.0)
        if self._look is None:
            self._look_later()
        return generation

    def leave(self, generation: Generation, failure: BaseException | None = None) -> None:
        """Close it; `failure` as for `Generation.close`. Idempotent."""
        self._live.pop(generation, None)
        generation.close(failure)

    def interrupt_all(self) -> None:
        """End whatever runs: the server shuts down."""
        for generation in list(self._live):
            generation.interrupt("shutdown")

    def _look_later(self) -> None:
        wait = self._stall_s / _LOOKS_PER_STALL
        self._look = asyncio.get_running_loop().call_later(wait, self._look_at_all)

    def _look_at_all(self) -> None:
        """End what has been with an engine, but has gained no token for too long."""
        now = time.perf_counter()
        for generation, (before, since) in list(self._live.items()):
            produced = generation.produced()
            if not generation.submitted:
                self._live[generation] = (produced, 0.0)
            elif produced != before or not since:
                self._live[generation] = (produced, now)
            elif now - since >= self._stall_s and generation.stands_still(self._stall_s):
                generation.fail(_stalled(self._stall_s))
        self._look = None
        if self._live:
            self._look_later()


def _stalled(seconds: float) -> UnavailableError:
    return UnavailableError(
        f"The engine has produced nothing for this request in {seconds:g} s.",
        code="engine_stalled",
        retry_after_s=_STALLED_RETRY_S,
    )
