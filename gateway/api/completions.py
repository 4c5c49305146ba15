"""`POST /v1/completions`."""

from __future__ import annotations

from gateway.answers import TextAnswer
from gateway.api.generation import GenerationEndpoint, Task
from gateway.protocol.completions import CompletionRequest
from gateway.services import Services


def endpoint(room: Services) -> GenerationEndpoint[CompletionRequest]:
    return GenerationEndpoint(
        room,
        "/v1/completions",
        model=CompletionRequest,
        id_prefix="cmpl",
        task=_task,
        summary="Continue one or more prompts, whole or as a stream.",
    )


def _task(body: CompletionRequest) -> Task:
    return Task(body.prompts(), "prompt", body.token_limit(), TextAnswer)
