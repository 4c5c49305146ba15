"""The way to an engine: who waits is told here what `Line` has decided."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from engine.base import LoadedModel
from gateway.admission.demand import TOO_LATE, QueueStats
from gateway.admission.line import Line
from gateway.admission.permit import Permit
from gateway.config import AdmissionConfig
from gateway.errors import APIError, DeadlineError
from gateway.tenants import Principal


class Admission:
    """One queue and one gate for each replica. `clock` returns seconds and never goes back."""

    def __init__(
        self, config: AdmissionConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self._config = config
        self._lines: dict[str, Line[Permit]] = {}
        self._timers: dict[Line[Permit], asyncio.TimerHandle] = {}
        self._inside = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def inside(self) -> int:
        """Requests that hold a permit, whether they are rendered, wait or run."""
        return self._inside

    @property
    def queued(self) -> int:
        """Requests that wait for an engine."""
        return sum(len(line.queue) for line in self._lines.values())

    async def idle(self) -> None:
        """Return once nobody holds a permit."""
        await self._idle.wait()

    def serve(self, replica: str, model: LoadedModel | None) -> None:
        """`replica` is loaded, and takes from its queue; None: it is away, and its queue waits.

        What is inside stays so until its permit is released or requeued.
        """
        line = self._line(replica)
        line.serve(model, self.clock())
        self.pump(line)

    def enter(self, replica: str, principal: Principal, *, returning: bool | None = None) -> Permit:
        """Let a request in, before it is rendered. It holds the permit until it releases it.

        `returning` says whether it was refused before and has obeyed: those who did are let in
        before others of their tenant. None: unknown. Raises OverloadedError where the gateway or
        the queue is full, for all or for this tenant, or its first token is expected after more
        than `max_ttft_s`; what `refuse_queued` was told, until the replica is served again.
        """
        line, now, tenant = self._line(replica), self.clock(), principal.tenant
        if line.refused is not None:
            raise line.refused.again()
        if self._inside >= self._config.max_requests:
            message = (
                f"The server is at its limit of {self._config.max_requests} concurrent requests; "
                "retry later."
            )
            raise line.bounds.refusal(message, tenant, principal.priority, principal.weight, now)
        line.bounds.enter(principal, returning, now)
        self._inside += 1
        self._idle.clear()
        return Permit(self, line, tenant)

    def refuse_queued(self, replica: str, error: APIError) -> None:
        """Refuse everyone who waits for `replica`, and who would until it is served again."""
        line, now = self._line(replica), self.clock()
        line.refused = error
        for permit in list(line.queue):
            line.remove(permit, now)
            permit.refuse(error.again(), now)
        self.pump(line)

    def stats(self, replica: str) -> QueueStats:
        """How one replica's queue is now."""
        return self._line(replica).stats(self.clock())

    def pump(self, line: Line[Permit]) -> None:
        """Let go whoever may. To be called after whatever may have made room."""
        now = self.clock()
        while (permit := line.next(now)) is not None:
            late = line.late(permit, now)
            if late or permit.gone:
                line.remove(permit, now)
                permit.refuse(DeadlineError(TOO_LATE), now)
            else:
                line.start(permit, now)
                permit.go(now)
        timer = self._timers.pop(line, None)
        if timer is not None:
            timer.cancel()
        if line.again_s is not None:
            loop = asyncio.get_running_loop()
            self._timers[line] = loop.call_later(line.again_s, self._again, line)

    def left(self) -> None:
        """A permit was released."""
        self._inside -= 1
        if not self._inside:
            self._idle.set()

    def _again(self, line: Line[Permit]) -> None:
        del self._timers[line]
        self.pump(line)

    def _line(self, replica: str) -> Line[Permit]:
        line = self._lines.get(replica)
        if line is None:
            line = self._lines[replica] = Line(self._config)
        return line
