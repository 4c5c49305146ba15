"""What every call goes through: it is admitted, generates, and leaves nothing behind.

What happens in between is `generation.Generation`; what it holds meanwhile is `holds.Hold`.
"""

from __future__ import annotations

from gateway.call import Call
from gateway.config import GatewayConfig
from gateway.generation import Generation
from gateway.holds import Holds
from gateway.lifecycle import Lifecycle
from gateway.live import Live
from gateway.metrics import Metrics


class Pipeline:
    """Turns calls into generations."""

    def __init__(
        self, config: GatewayConfig, lifecycle: Lifecycle, holds: Holds, metrics: Metrics
    ) -> None:
        self._lifecycle = lifecycle
        self._holds = holds
        self._metrics = metrics
        self._resume_s = config.health.resume_s
        self._live: Live[Generation] = Live(config.admission.stall_timeout_s)

    def admit(self, call: Call) -> Generation:
        """A generation that is still to begin; it holds a permit and has to be closed with `leave`.

        Raises APIError where the call is not admitted.
        """
        self._lifecycle.require_open()
        engine = call.deployment.engine()
        hold = self._holds.open(call.deployment, call.principal, call.entry, call.returning)
        generation = Generation(engine, call, hold, self._metrics, self._resume_s)
        self._live.add(generation)
        return generation

    def leave(self, generation: Generation, failure: BaseException | None = None) -> None:
        """Close it; `failure` as for `Generation.close`. Idempotent."""
        self._live.discard(generation)
        generation.close(failure)

    def interrupt_all(self) -> None:
        """End whatever runs: the server shuts down."""
        for generation in self._live:
            generation.interrupt("shutdown")
