"""`POST /v1/chat/completions`."""

from __future__ import annotations

from gateway.answers import ChatAnswer
from gateway.api.generation import GenerationRoute, Task
from gateway.protocol.chat import ChatCompletionRequest
from gateway.services import Services


def route(room: Services) -> GenerationRoute[ChatCompletionRequest]:
    return GenerationRoute(
        room,
        "/v1/chat/completions",
        model=ChatCompletionRequest,
        id_prefix="chatcmpl",
        task=_task,
        summary="Answer a conversation, whole or as a stream.",
    )


def _task(body: ChatCompletionRequest) -> Task:
    return Task([body.conversation()], "messages", body.token_limit(), ChatAnswer)
