"""Answering a call over HTTP: as server-sent events, or as one JSON object.

Source: WHATWG HTML, "Server-sent events"; the OpenAI API reference, "Streaming".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from starlette.types import Send

from engine.base import TokenDelta
from gateway.answers import Answer, Choice
from gateway.errors import APIError, as_api_error, draining
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.pipeline import Call, InterruptedCallError, Pipeline, Usage

logger = logging.getLogger(__name__)

LAST_WORD_S = 1.0
DONE = b"data: [DONE]\n\n"
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Outbox:
    """The streams that have something to send, written together at the end of the loop's pass.

    So what an engine step, or several when the loop is behind, adds to one stream is one write.
    """

    def __init__(self) -> None:
        self._due: list[EventStream] = []

    def add(self, stream: EventStream) -> None:
        if not self._due:
            asyncio.get_running_loop().call_soon(self._write)
        self._due.append(stream)

    def _write(self) -> None:
        due, self._due = self._due, []
        for stream in due:
            stream.flush()


class EventStream:
    """One streamed answer. Implements `pipeline.Outlet`.

    What a slow client, or a slow loop, leaves unsent is merged into fewer events: nothing is
    lost or reordered, and at most one completion's text is held besides the socket's buffer.
    """

    __slots__ = ("_answer", "_due", "_exchange", "_open", "_outbox", "_unsent")

    def __init__(self, answer: Answer, exchange: Exchange, outbox: Outbox) -> None:
        self._answer = answer
        self._exchange = exchange
        self._outbox = outbox
        self._unsent: list[TokenDelta] = []
        self._due = False
        self._open = False

    def open(self) -> None:
        """From now on events may be written: the headers are out."""
        self._open = True
        self._exchange.on_writable = self.flush
        self.flush()

    def put(self, delta: TokenDelta) -> None:
        self._unsent.append(delta)
        if not self._due and self._open:
            self._due = True
            self._outbox.add(self)

    def flush(self) -> None:
        """Write what is unsent, if the client takes it; else it waits until the client does."""
        self._due = False
        if self._unsent and self._open and self._exchange.writable:
            self._exchange.write(self._take())

    def end(self, usage: Usage | None) -> None:
        """Write the rest, `usage` if asked for, and the end mark."""
        events = self._take()
        if usage is not None:
            events += b"data: %b\n\n" % self._answer.usage_chunk(usage)
        self._last(events + DONE)

    def fail(self, error: APIError) -> None:
        """Write the rest and the error; the stream ends without its end mark."""
        self._last(self._take() + b"data: %b\n\n" % error.body())

    def _last(self, events: bytes) -> None:
        self._open = False
        self._exchange.on_writable = None
        self._exchange.write(events)

    def _take(self) -> bytes:
        unsent, self._unsent = self._unsent, []
        if len(unsent) == 1:
            return self._answer.events(unsent[0])
        return b"".join(map(self._answer.events, _merged(unsent)))


class WholeAnswer:
    """One answer that isn't streamed. Implements `pipeline.Outlet`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._choices: dict[int, Choice] = {}

    def put(self, delta: TokenDelta) -> None:
        choice = self._choices.get(delta.index)
        if choice is None:
            choice = self._choices[delta.index] = Choice(delta.index)
        choice.parts.append(delta.text)
        choice.finish_reason = delta.finish_reason

    def body(self, usage: Usage) -> bytes:
        """The JSON object, once every choice has finished."""
        return self._answer.whole([self._choices[i] for i in sorted(self._choices)], usage)


class Reply:
    """Runs calls and writes their answers.

    Before the first byte an error is raised, for the application's error map; after it, an error
    is an event of its own and the stream ends without `[DONE]`.
    """

    def __init__(self, pipeline: Pipeline, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._outbox = Outbox()

    async def whole(self, call: Call, answer: Answer, exchange: Exchange, send: Send) -> None:
        """Answer with one JSON object. Raises APIError, EngineError."""
        outlet = WholeAnswer(answer)
        generation = self._pipeline.admit(call, outlet)
        exchange.watch(lambda: generation.interrupt("disconnect"))
        try:
            await generation.begin()
            body = outlet.body(await generation.end())
        except Exception as error:
            known = self._known(error)
            if known is None:
                return
            raise (known if isinstance(error, InterruptedCallError) else error) from None
        finally:
            exchange.watch(None)
            generation.close()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        exchange.hold()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        exchange.release()

    async def stream(
        self, call: Call, answer: Answer, exchange: Exchange, send: Send, *, include_usage: bool
    ) -> None:
        """Answer with server-sent events. Raises APIError, EngineError before the first one."""
        outlet = EventStream(answer, exchange, self._outbox)
        generation = self._pipeline.admit(call, outlet)
        exchange.watch(lambda: generation.interrupt("disconnect"))
        started = False
        try:
            await generation.begin()
            started = True
            exchange.hold()
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            if not generation.finished:
                outlet.open()
                exchange.release()
            usage = await generation.end()
            await exchange.drained()
            exchange.hold()
            outlet.end(usage if include_usage else None)
        except Exception as error:
            known = self._known(error)
            if known is None:
                return
            if not started:
                raise (known if isinstance(error, InterruptedCallError) else error) from None
            await self._fail(outlet, exchange, known)
        finally:
            exchange.watch(None)
            generation.close()
        await send({"type": "http.response.body", "body": b""})
        exchange.release()

    async def _fail(self, outlet: EventStream, exchange: Exchange, error: APIError) -> None:
        logger.warning("a stream ended early: %s", error.message)
        try:
            async with asyncio.timeout(LAST_WORD_S):  # a client that doesn't read won't read this
                await exchange.drained()
        except TimeoutError:
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


def _merged(deltas: Iterable[TokenDelta]) -> Iterable[TokenDelta]:
    """One delta for each choice, in the order the choices appear."""
    choices: dict[int, list[TokenDelta]] = {}
    for delta in deltas:
        choices.setdefault(delta.index, []).append(delta)
    for index, parts in choices.items():
        yield TokenDelta(
            index,
            "".join([part.text for part in parts]),
            [token for part in parts for token in part.token_ids],
            parts[-1].finish_reason,
            parts[-1].cached_tokens,
        )
