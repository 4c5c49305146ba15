"""`POST /v1/chat/completions`."""

from __future__ import annotations

from gateway.answers import ChatAnswer
from gateway.api.generation import GenerationEndpoint, Task
from gateway.protocol.chat import ChatCompletionRequest
from gateway.services import Services


def endpoint(room: Services) -> GenerationEndpoint[ChatCompletionRequest]:
    return GenerationEndpoint(
        room,
        "/v1/chat/completions",
        model=ChatCompletionRequest,
        id_prefix="chatcmpl",
        task=_task,
        summary="Answer a conversation, whole or as a stream.",
    )


def _task(body: ChatCompletionRequest) -> Task:
    return Task([body.conversation()], "messages", body.token_limit(), ChatAnswer)
