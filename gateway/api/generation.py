"""The endpoints that generate. They are plain ASGI: what FastAPI does for a route would be half of
such a request's cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from fastapi import Request
from starlette.types import Receive, Scope, Send

from engine.base import Engine, SamplingOptions, Source, Structure
from gateway import exchange
from gateway.answers import Answer, Heading
from gateway.answers.counted import CountedAnswer
from gateway.api.schemas import documented
from gateway.call import Call
from gateway.event_stream import Keep
from gateway.ids import new_id
from gateway.protocol.generation import GenerationBody
from gateway.services import (
    Services,
    deadline_of,
    fingerprint,
    identify,
    is_returning,
    open_entry,
    read_json,
    resolve,
)
from gateway.timings import Timings, enter

Body = TypeVar("Body", bound=GenerationBody)


class Context(msgspec.Struct, frozen=True):
    """What a request meets: the engine that will answer it, and whose it is."""

    engine: Engine
    owner: str


class Task(msgspec.Struct, frozen=True):
    """What an endpoint makes of a body: `sources` are completed, `param` names them in errors.

    `include_usage`: a stream ends with its usage; `continuous_usage`: every chunk has it so far.
    `loose`, `with_text` and `clipped` are the call's. `more` are fields that every chunk and answer
    repeats. `keep` is given the whole answer before its client has it.
    """

    sources: Sequence[Source]
    param: str
    sampling: SamplingOptions
    answer: Callable[[Heading], Answer]
    include_usage: bool = False
    continuous_usage: bool = False
    loose: Structure | None = None
    with_text: bool = False
    clipped: bool = False
    more: Mapping[str, Any] = msgspec.field(default_factory=dict)
    keep: Keep | None = None


class GenerationEndpoint(Generic[Body]):
    """The ASGI application of `POST path` with a body of type `model`; `task` says what is to be
    done with one. Raises APIError, EngineError before its first byte.

    `model`, `summary` and `documentation` (of `documented`) are for `/openapi.json`.
    """

    def __init__(
        self,
        room: Services,
        path: str,
        *,
        model: type[Body],
        id_prefix: str,
        task: Callable[[Body, Context], Task],
        summary: str,
        documentation: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.model = model
        self.summary = summary
        self.documentation = documentation or documented(model)
        self._room = room
        self._id_prefix = id_prefix
        self._task = task
        self._timed = room.config.server.server_timing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, room = Request(scope, receive), self._room
        arrived = scope["state"].get("arrived", time.perf_counter())
        timings: Timings | None = None
        if self._timed:
            timings = scope["state"]["timings"] = Timings(arrived)
        who = identify(request, room)
        entry = open_entry(request, who, self.path)
        deadline = deadline_of(request, room, arrived)
        enter(timings, "parse")
        body = await read_json(request, room, self.model)
        entry.streamed = bool(body.stream)
        deployment = resolve(room, who, body.model)
        entry.model = deployment.name
        engine = deployment.engine()
        task = self._task(body, Context(engine, who.owner))
        answer_id = new_id(self._id_prefix)
        heading = Heading(
            id=answer_id,
            model=deployment.name,
            fingerprint=fingerprint(engine.info, deployment.adapter),
            include_usage=task.include_usage,
            more=task.more,
        )
        call = Call(
            request_id=answer_id,
            deployment=deployment,
            principal=who,
            entry=entry,
            sources=task.sources,
            sampling=task.sampling,
            param=task.param,
            arrived=arrived,
            deadline=deadline,
            returning=is_returning(request),
            loose=task.loose,
            with_text=task.with_text,
            clipped=task.clipped,
            timings=timings,
        )
        answer, where = task.answer(heading), exchange.of(scope)
        if task.continuous_usage:
            answer = CountedAnswer(answer)
        reply = room.reply.stream if body.stream else room.reply.whole
        enter(timings, "queue")
        await reply(call, answer, where, send, keep=task.keep)
