"""Answering a call over HTTP: as server-sent events, or as one JSON object.

Source: WHATWG HTML, "Server-sent events"; the OpenAI API reference, "Streaming".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.types import Send

from engine.base import EngineGenerateError
from gateway.answers import Answer
from gateway.call import Call, InterruptedCallError
from gateway.errors import APIError, as_api_error, draining
from gateway.exchange import Exchange
from gateway.generation import Generation
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline

logger = logging.getLogger(__name__)

LAST_WORD_S = 1.0
MAX_PAUSE_S = 0.05
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


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
        self._last(events + self._answer.finished(usage))

    def fail(self, error: APIError) -> None:
        """Write the rest and the error."""
        self._last(self._events() + self._answer.failed(error))

    def _last(self, events: bytes) -> None:
        self._open = False
        self._generation.outlet = None
        self._exchange.on_writable = None
        self._exchange.write(events)

    def _events(self) -> bytes:
        deltas = self._generation.take()
        if len(deltas) == 1:
            return self._answer.events(deltas[0])
        return b"".join([self._answer.events(delta) for delta in deltas])


class Reply:
    """Runs calls and writes their answers.

    Before the first byte an error is raised, for the application's error map; after it, an error
    is an event of its own and the stream ends without its end mark. `keep` is given an answer that
    is whole, before its client has it all.
    """

    def __init__(self, pipeline: Pipeline, metrics: Metrics, *, write_share: float) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._outbox = Outbox(write_share)

    async def whole(
        self,
        call: Call,
        answer: Answer,
        exchange: Exchange,
        send: Send,
        *,
        keep: Keep | None = None,
    ) -> None:
        """Answer with one JSON object. Raises APIError, EngineError."""
        generation, failure = self._pipeline.admit(call), None
        try:
            exchange.watch(lambda: generation.interrupt("disconnect"))
            await generation.begin()
            answer.begin(generation.prompts)
            await generation.end()
            choices = {delta.index: delta for delta in generation.take()}
            body = answer.whole([choices[index] for index in sorted(choices)], generation.usage)
            if keep is not None:
                await keep(body)
        except Exception as error:
            failure, known = error, self._known(error)
            if known is None:
                return
            raise (known if isinstance(error, InterruptedCallError) else error) from None
        finally:
            exchange.watch(None)
            generation.reasoning_tokens = answer.reasoning_tokens
            self._pipeline.leave(generation, failure)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        exchange.hold()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        exchange.release()

    async def stream(
        self,
        call: Call,
        answer: Answer,
        exchange: Exchange,
        send: Send,
        *,
        keep: Keep | None = None,
    ) -> None:
        """Answer with server-sent events. Raises APIError, EngineError before the first one."""
        generation, failure = self._pipeline.admit(call), None
        outlet = EventStream(answer, generation, exchange, self._outbox)
        started = False
        try:
            exchange.watch(lambda: generation.interrupt("disconnect"))
            await generation.begin()
            answer.begin(generation.prompts)
            started = True
            exchange.hold()
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            if not generation.complete:
                outlet.open()
                exchange.release()
            await generation.end()
            await exchange.drained()
            exchange.hold()
            await outlet.end(keep)
        except Exception as error:
            failure, known = error, self._known(error)
            if known is None:
                return
            if not started:
                raise (known if isinstance(error, InterruptedCallError) else error) from None
            await self._fail(outlet, exchange, known)
        finally:
            exchange.watch(None)
            generation.reasoning_tokens = answer.reasoning_tokens
            self._pipeline.leave(generation, failure)
        await send({"type": "http.response.body", "body": b""})
        exchange.release()

    async def _fail(self, outlet: EventStream, exchange: Exchange, error: APIError) -> None:
        logger.warning("a stream ended early: %s", error.message)
        try:
            async with asyncio.timeout(LAST_WORD_S):  # a client that doesn't read won't read this
                await exchange.drained()
        except TimeoutError:
            exchange.abort()
            return
        outlet.fail(error)

    def _known(self, error: Exception) -> APIError | None:
        """What the client is told; nothing where it has gone."""
        if isinstance(error, InterruptedCallError):
            self._metrics.request_aborted.labels(error.cause).inc()
            return None if error.cause == "disconnect" else draining()
        known = as_api_error(error)
        if known.status >= 500:
            self._metrics.request_aborted.labels("error").inc()
        return known
