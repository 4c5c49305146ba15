"""What a request holds from its arrival to its end.

::

    RENDERING ─ request ─► WAITING ─► RUNNING ─ requeue ─► OUTSIDE ─ request ─► …
                              │                               ▲
                              └────── refused, cancelled ─────┘     release, from any: RELEASED
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING

from gateway.admission.demand import TOO_LATE, Demand, Ticket
from gateway.errors import APIError, DeadlineError

if TYPE_CHECKING:
    from gateway.admission.admission import Admission
    from gateway.admission.line import Line


class State(Enum):
    """Of a permit."""

    RENDERING = 1
    WAITING = 2
    RUNNING = 3
    OUTSIDE = 4
    RELEASED = 5


class Permit(Ticket):
    """The right of one request to be here, and to run once it is its turn. To be released in any
    case, whatever its state.

    `progress`, to be set by the holder, tells the completion tokens produced so far, of all
    sequences. `queued_s` is how long it has waited.
    """

    __slots__ = (
        "_admission",
        "_line",
        "_since",
        "_state",
        "_tenant",
        "_timer",
        "_turn",
        "queued_s",
    )

    def __init__(self, admission: Admission, line: Line[Permit], tenant: str) -> None:
        super().__init__()
        self.queued_s = 0.0
        self._admission = admission
        self._line = line
        self._tenant = tenant
        self._state = State.RENDERING
        self._since = 0.0
        self._turn: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def gone(self) -> bool:
        """Whether nobody waits for its turn any more."""
        return self._turn is None or self._turn.done()

    def request(self, demand: Demand) -> asyncio.Future[None] | None:
        """Ask for a place in the engine. None: it has one now. Else a future that is done once it
        has; to cancel it is to leave the queue.

        Raises OverloadedError, DeadlineError, or what everyone is refused with; so may the future.
        """
        line, now = self._line, self._admission.clock()
        if self._state is State.RENDERING:
            line.bounds.rendered(self._tenant)
        elif self._state is not State.OUTSIDE:
            raise RuntimeError(f"A permit that is {self._state.name} can't ask for a place.")
        self._state = State.OUTSIDE
        self.demand = demand
        displaced = line.request(self, now)
        if not self.waiting:
            self._state = State.RUNNING
            return None
        for permit in displaced:
            permit.refuse(line.bounds.full(permit.demand, now), now)
        return self._wait(now)

    def started(self, cached_tokens: int) -> None:
        """Its first token has come; so many of the prompts' tokens were in the prefix cache."""
        if self._state is State.RUNNING and not self.was_started:
            self._line.started(self, cached_tokens, self._admission.clock())

    def requeue(self) -> None:
        """Its engine is gone: give back the place in it, and keep that in the queue, for the next
        `request`."""
        if self._state is State.RUNNING:
            self._line.leave(self, self._admission.clock())
            self._state = State.OUTSIDE
            if self._line.queue:
                # Later, when it is back: its place may be free for nobody else.
                asyncio.get_running_loop().call_soon(self._admission.pump, self._line)

    def release(self) -> None:
        """Give back everything. Idempotent. Completion tokens are charged as `progress` tells them
        now; the prompts are not, where no token came."""
        state, self._state = self._state, State.RELEASED
        if state is State.RELEASED:
            return
        line, now = self._line, self._admission.clock()
        if state is State.RENDERING:
            line.bounds.rendered(self._tenant)
        elif state is State.WAITING:
            line.remove(self, now)
            self._left(now).cancel()
        elif state is State.RUNNING:
            line.leave(self, now)
        self.progress = None
        self._admission.left()
        self._admission.pump(line)

    def go(self, now: float) -> None:
        """Its turn has come, and it was started."""
        self._state = State.RUNNING
        self._left(now).set_result(None)

    def refuse(self, error: APIError, now: float) -> None:
        """It was taken out of the queue: tell the holder why, if it still waits."""
        self._state, self.order = State.OUTSIDE, 0
        turn = self._left(now)
        if not turn.done():
            turn.set_exception(error)
            turn.exception()  # Looked at here, as nobody else may be left to.

    def _wait(self, now: float) -> asyncio.Future[None] | None:
        loop = asyncio.get_running_loop()
        self._state, self._since = State.WAITING, now
        self._turn = turn = loop.create_future()
        turn.add_done_callback(self._turned)
        if self.demand.deadline is not None:
            self._timer = loop.call_later(max(0.0, self.demand.deadline - now), self._expire)
        self._admission.pump(self._line)
        if not turn.done():
            return turn
        turn.result()
        return None

    def _left(self, now: float) -> asyncio.Future[None]:
        """It waits no more. Returns what the holder waits for."""
        turn, self._turn = self._turn, None
        assert turn is not None  # noqa: S101  what waits has one
        self.queued_s += now - self._since
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return turn

    def _turned(self, turn: asyncio.Future[None]) -> None:
        """The holder may have cancelled its turn."""
        if turn is self._turn and turn.cancelled():
            now = self._admission.clock()
            self._line.remove(self, now)
            self.refuse(DeadlineError(), now)  # which nobody hears
            self._admission.pump(self._line)

    def _expire(self) -> None:
        self._timer = None
        if self._state is State.WAITING:
            now = self._admission.clock()
            self._line.remove(self, now)
            self.refuse(DeadlineError(TOO_LATE), now)
            self._admission.pump(self._line)
