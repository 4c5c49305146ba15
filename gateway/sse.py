"""Answering a call over HTTP: as server-sent events, or as one JSON object.

Source: WHATWG HTML, "Server-sent events"; the OpenAI API reference, "Streaming".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.base import EngineGenerateError, TokenDelta
from gateway.answers import Answer, Choice
from gateway.cancellation import CallScope, CallScopes
from gateway.errors import APIError, as_api_error, draining
from gateway.metrics import Metrics
from gateway.pipeline import Call, Generation, Pipeline

logger = logging.getLogger(__name__)

LAST_WORD_S = 1.0
DONE = b"data: [DONE]\n\n"
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class GenerationResponse(Response):
    """Runs a call and writes its answer.

    Before the first byte an error is raised, for the application's error map; after it, an error
    is an event of its own and the stream ends without `[DONE]`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        scopes: CallScopes,
        metrics: Metrics,
        call: Call,
        answer: Answer,
        *,
        stream: bool,
        include_usage: bool,
    ) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._scopes = scopes
        self._metrics = metrics
        self._call = call
        self._answer = answer
        self._stream = stream
        self._include_usage = include_usage
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = None
        async with self._scopes.enter(receive) as call_scope:
            try:
                async with await self._pipeline.start(self._call) as generation:
                    if self._stream:
                        await self._write_stream(generation, send)
                    else:
                        body = await self._collect(generation)
            except Exception as error:
                known = as_api_error(error)
                if known.status >= 500:
                    self._metrics.request_aborted.labels("error").inc()
                if not self._started:
                    raise
                await self._write_error(known, send)
                if not isinstance(error, APIError):
                    logger.warning("%s failed mid-stream: %r", self._call.request_id, error)
        if call_scope.cause is not None:
            await self._interrupted(call_scope, send)
        elif body is not None:
            await _send_json(body, send)
        if self._started:
            await send({"type": "http.response.body", "body": b""})

    async def _write_stream(self, generation: Generation, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        self._started = True
        async for delta in generation:
            chunks = self._answer.chunks(_sound(delta))
            if chunks:
                await _send_events(b"".join(b"data: %b\n\n" % chunk for chunk in chunks), send)
        last = DONE
        if self._include_usage:
            last = b"data: %b\n\n%b" % (
                self._answer.usage_chunk(generation.usage),
                DONE,
            )
        await _send_events(last, send)

    async def _collect(self, generation: Generation) -> bytes:
        choices: dict[int, Choice] = {}
        async for delta in generation:
            choice = choices.setdefault(delta.index, Choice(delta.index))
            choice.parts.append(delta.text)
            choice.finish_reason = _sound(delta).finish_reason
        return self._answer.whole((choices[index] for index in sorted(choices)), generation.usage)

    async def _interrupted(self, call_scope: CallScope, send: Send) -> None:
        self._metrics.request_aborted.labels(str(call_scope.cause)).inc()
        if call_scope.cause == "disconnect":
            return
        if not self._started:
            raise draining()
        with contextlib.suppress(TimeoutError):  # a client that doesn't read won't read this
            async with asyncio.timeout(LAST_WORD_S):
                await self._write_error(draining(), send)

    @staticmethod
    async def _write_error(error: APIError, send: Send) -> None:
        await _send_events(b"data: %b\n\n" % error.body(), send)


def _sound(delta: TokenDelta) -> TokenDelta:
    """An engine-side abort that nobody here asked for is a failure, not an answer."""
    if delta.finish_reason == "abort":
        raise EngineGenerateError("the engine aborted the request")
    return delta


async def _send_events(events: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": events, "more_body": True})


async def _send_json(body: bytes, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
