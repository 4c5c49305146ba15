"""The endpoints that generate. They are plain ASGI: what FastAPI does for a route would be half of
such a request's cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request
from starlette.types import Receive, Scope, Send

from gateway import exchange
from gateway.answers import Answer, Heading
from gateway.pipeline import Call, Source
from gateway.protocol.sampling import SamplingFields
from gateway.services import Services, fingerprint, identify, new_id, read_json

Body = TypeVar("Body", bound=SamplingFields)


@dataclass(frozen=True, slots=True)
class Task:
    """What an endpoint makes of a body: `sources` are completed, `param` names them in errors."""

    sources: Sequence[Source]
    param: str
    max_tokens: int | None
    answer: Callable[[Heading], Answer]


class GenerationEndpoint(Generic[Body]):
    """The ASGI application of `POST path` with a body of type `model`; `task` says what is to be
    done with one. Raises APIError, EngineError before its first byte.

    `model` and `summary` are for `/openapi.json`.
    """

    def __init__(
        self,
        room: Services,
        path: str,
        *,
        model: type[Body],
        id_prefix: str,
        task: Callable[[Body], Task],
        summary: str,
    ) -> None:
        self.path = path
        self.model = model
        self.summary = summary
        self._room = room
        self._id_prefix = id_prefix
        self._task = task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, room = Request(scope, receive), self._room
        identify(request, room)
        body = await read_json(request, room, self.model)
        room.require_model(body.model)
        task = self._task(body)
        answer_id = new_id(self._id_prefix)
        heading = Heading(
            id=answer_id,
            model=room.config.public_name,
            fingerprint=fingerprint(room.lifecycle.engine().info),
            include_usage=body.include_usage,
        )
        call = Call(
            request_id=answer_id,
            sources=task.sources,
            sampling=body.sampling(max_tokens=task.max_tokens),
            param=task.param,
            arrived=scope["state"].get("arrived", time.perf_counter()),
        )
        answer, where = task.answer(heading), exchange.of(scope)
        if body.stream:
            await room.reply.stream(call, answer, where, send, include_usage=body.include_usage)
        else:
            await room.reply.whole(call, answer, where, send)
