"""How much work is taken at once. A `Permit` is tied to one request and released exactly once."""

from __future__ import annotations

import asyncio

from gateway.config import AdmissionConfig
from gateway.errors import OverloadedError

RETRY_AFTER_S = 1.0


class Permit:
    """The right to run one request; `release` may be called any number of times."""

    __slots__ = ("_admission", "_released")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._released = False

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._admission._leave()


class Admission:
    """Counts the requests inside and refuses those over the limit."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._max_requests = config.max_requests
        self._inside = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def inside(self) -> int:
        """Requests that hold a permit."""
        return self._inside

    def acquire(self) -> Permit:
        """Raises OverloadedError (429) where `admission.max_requests` are inside already."""
        if self._inside >= self._max_requests:
            raise OverloadedError(
                f"The server is at its limit of {self._max_requests} concurrent requests; "
                "retry shortly.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._inside += 1
        self._idle.clear()
        return Permit(self)

    async def idle(self) -> None:
        """Return once nobody holds a permit."""
        await self._idle.wait()

    def _leave(self) -> None:
        self._inside -= 1
        if self._inside == 0:
            self._idle.set()
