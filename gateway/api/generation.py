"""What the chat and completions routers have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import Request

from gateway.answers import Answer, Heading
from gateway.pipeline import Call, Source
from gateway.protocol.sampling import SamplingFields
from gateway.services import Services, fingerprint
from gateway.sse import GenerationResponse


def heading(room: Services, body: SamplingFields, answer_id: str) -> Heading:
    """What the answer's chunks repeat. Raises UnavailableError where no engine is ready."""
    return Heading(
        id=answer_id,
        model=room.config.public_name,
        fingerprint=fingerprint(room.lifecycle.engine().info),
        include_usage=body.include_usage,
    )


def respond(
    room: Services,
    body: SamplingFields,
    answer: Answer,
    *,
    request: Request,
    answer_id: str,
    sources: Sequence[Source],
    param: str,
    max_tokens: int | None,
) -> GenerationResponse:
    """The response that runs the call. Raises InvalidPromptError for options that don't fit."""
    call = Call(
        request_id=answer_id,
        sources=sources,
        sampling=body.sampling(max_tokens=max_tokens),
        param=param,
        arrived=request.scope["state"].get("arrived", time.perf_counter()),
    )
    return GenerationResponse(
        room.pipeline,
        room.scopes,
        room.metrics,
        call,
        answer,
        stream=bool(body.stream),
        include_usage=body.include_usage,
    )
