"""One streamed answer: from what a generation has made to events on the connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from engine.base import EngineGenerateError
from gateway.answers import Answer
from gateway.errors import APIError
from gateway.exchange import Exchange
from gateway.generation import Generation
from gateway.timings import Timings

logger = logging.getLogger(__name__)

MAX_PAUSE_S = 0.05

Keep: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Keeps the JSON of a whole answer."""


class Outbox:
    """The streams that have something to send, written one after the other in one pass.

    A write is a system call, and with hundreds of streams most of what a token costs. So that
    writing takes at most `share` of the loop's time, a pass that took long is followed by a pause
    that is longer, up to MAX_PAUSE_S; what the engine adds to a stream meanwhile is sent as one
    event. With few streams there is no pause to notice: every token is an event of its own.
    """

    def __init__(self, share: float) -> None:
        self._pause = 1 / share - 1
        self._not_before = 0.0
        self._due: list[EventStream] = []

    def add(self, stream: EventStream) -> None:
        if not self._due:
            loop = asyncio.get_running_loop()
            if loop.time() < self._not_before:
                loop.call_at(self._not_before, self._write)
            else:
                loop.call_soon(self._write)
        self._due.append(stream)

    def _write(self) -> None:
        # Of this thread: time the machine gave to others isn't counted.
        begun = time.thread_time()
        due, self._due = self._due, []
        for stream in due:
            stream.flush()
        took = time.thread_time() - begun
        pause = min(took * self._pause, MAX_PAUSE_S)
        self._not_before = asyncio.get_running_loop().time() + pause


class EventStream:
    """One streamed answer. Implements `pipeline.Outlet`.

    What a slow client, or a slow loop, doesn't take stays with the engine's submission, as tokens,
    and is told in fewer events: nothing is lost or reordered.
    """

    __slots__ = ("_answer", "_due", "_exchange", "_generation", "_open", "_outbox")

    def __init__(
        self, answer: Answer, generation: Generation, exchange: Exchange, outbox: Outbox
    ) -> None:
        self._answer = answer
        self._generation = generation
        self._exchange = exchange
        self._outbox = outbox
        self._due = False
        self._open = False

    def open(self) -> None:
        """From now on events may be written: the headers are out."""
        self._open = True
        self._generation.outlet = self
        self._exchange.on_writable = self.flush
        self.flush()

    def ready(self) -> None:
        if not self._due:
            self._due = True
            self._outbox.add(self)

    def flush(self) -> None:
        """Write what there is, if the client takes it; else it waits until the client does."""
        self._due = False
        if self._open and self._exchange.writable:
            try:
                self._exchange.write(self._events())
            except Exception:  # must not end the pass: others are to be written too
                logger.exception("a stream's tokens could not be told")
                self._generation.fail(EngineGenerateError("The answer could not be decoded."))

    async def end(self, keep: Keep | None) -> None:
        """Have the answer kept, if it is to be, and write its rest and its end."""
        self._open = False
        events = self._events()
        usage = self._generation.usage
        record = self._answer.record(usage) if keep is not None else None
        if keep is not None and record is not None:
            # What was taken is told, even if it can't be kept.
            self._exchange.write(events)
            events = b""
            await keep(record)
        self._last(events, self._answer.finished(usage))

    def fail(self, error: APIError) -> None:
        """Write the rest, as far as it can be told, and the error."""
        try:
            events = self._events()
        except Exception:  # perhaps it is the error: that has to be told all the same
            logger.exception("a stream's last tokens could not be told")
            events = b""
        self._last(events, self._answer.failed(error))

    def _last(self, events: bytes, end: bytes) -> None:
        self._open = False
        self._generation.outlet = None
        self._exchange.on_writable = None
        self._exchange.write(events + end)

    def _events(self) -> bytes:
        deltas = self._generation.take()
        if len(deltas) == 1:
            return self._answer.events(deltas[0])
        return b"".join([self._answer.events(delta) for delta in deltas])


class TimedEventStream(EventStream):
    """Tells before its end where its time went. `frame` is what it takes to write events, both to
    encode and to send them; of that its client is told all but the last write."""

    __slots__ = ("_timings",)

    def __init__(
        self,
        answer: Answer,
        generation: Generation,
        exchange: Exchange,
        outbox: Outbox,
        timings: Timings,
    ) -> None:
        super().__init__(answer, generation, exchange, outbox)
        self._timings = timings

    def flush(self) -> None:
        before = self._timings.enter("frame")
        super().flush()
        self._timings.enter(before)

    async def end(self, keep: Keep | None) -> None:
        self._timings.enter("frame")
        await super().end(keep if keep is None else partial(self._stored, keep))

    async def _stored(self, keep: Keep, record: bytes) -> None:
        self._timings.enter("store")
        await keep(record)
        self._timings.enter("frame")

    def _last(self, events: bytes, end: bytes) -> None:
        super()._last(events + self._timings.comment(), end)

    def _events(self) -> bytes:
        self._timings.enter("detokenize")
        deltas = self._generation.take()
        self._timings.enter("frame")
        return b"".join([self._answer.events(delta) for delta in deltas])
