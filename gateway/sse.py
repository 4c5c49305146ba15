"""Answering a call over HTTP: as server-sent events, or as one JSON object.

Source: WHATWG HTML, "Server-sent events"; the OpenAI API reference, "Streaming".
"""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Send

from gateway.answers import Answer
from gateway.call import Call, InterruptedCallError
from gateway.errors import APIError, as_api_error, draining
from gateway.event_stream import EventStream, Keep, Outbox, TimedEventStream
from gateway.exchange import Exchange
from gateway.generation import Generation
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.timings import enter

logger = logging.getLogger(__name__)

LAST_WORD_S = 1.0
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


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
            enter(call.timings, "detokenize")
            choices = {delta.index: delta for delta in generation.take()}
            enter(call.timings, "frame")
            body = answer.whole([choices[index] for index in sorted(choices)], generation.usage)
            if keep is not None:
                enter(call.timings, "store")
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
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

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
        outlet = self._outlet(call, answer, generation, exchange)
        started = False
        try:
            exchange.watch(lambda: generation.interrupt("disconnect"))
            await generation.begin()
            answer.begin(generation.prompts)
            started = True
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            if not generation.complete:
                outlet.open()
                exchange.release()
            await generation.end()
            enter(call.timings, "send")
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

    def _outlet(
        self, call: Call, answer: Answer, generation: Generation, exchange: Exchange
    ) -> EventStream:
        if call.timings is None:
            return EventStream(answer, generation, exchange, self._outbox)
        return TimedEventStream(answer, generation, exchange, self._outbox, call.timings)

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
