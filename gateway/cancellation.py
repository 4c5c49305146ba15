"""Stopping a call from outside: its client hung up, or the server's grace period is over.

A `CallScope` is entered around everything a call does before its last byte. An interrupt cancels
the call's task, so that every `finally` on the way releases what it holds; the scope swallows the
cancellation it caused itself and keeps the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Literal, Self

from starlette.types import Receive

Cause = Literal["disconnect", "shutdown"]


class CallScopes:
    """The calls now inside, so that a shutdown can interrupt them."""

    def __init__(self) -> None:
        self._live: set[CallScope] = set()

    def interrupt_all(self) -> None:
        for scope in list(self._live):
            scope.interrupt("shutdown")

    def enter(self, receive: Receive) -> CallScope:
        return CallScope(self._live, receive)


class CallScope:
    """`async with`: interrupts the current task when the client goes away."""

    def __init__(self, live: set[CallScope], receive: Receive) -> None:
        self._live = live
        self._receive = receive
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.cause: Cause | None = None

    def interrupt(self, cause: Cause) -> None:
        if self.cause is None and self._task is not None:
            self.cause = cause
            self._task.cancel()

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch())
        self._live.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._live.discard(self)
        if self._watcher is not None:
            self._watcher.cancel()
        task, self._task = self._task, None
        if self.cause is None or task is None:
            return False
        if not isinstance(error, asyncio.CancelledError):
            # The interrupt came when the work was already over: it is still to be delivered.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            task.uncancel()
            return False
        return task.uncancel() == 0

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.interrupt("disconnect")
