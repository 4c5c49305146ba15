"""`POST /v1/chat/completions`."""

from __future__ import annotations

from functools import partial

import msgspec

from gateway.answers.chat import ChatAnswer
from gateway.api.generation import Context, GenerationEndpoint, Task
from gateway.api.schemas import documented
from gateway.protocol.chat import ChatCompletionRequest
from gateway.services import Services
from gateway.store.completions import StoredCompletions
from gateway.turn import plan

_EXAMPLE = {
    "model": "",
    "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
    "max_completion_tokens": 32,
}


def endpoint(room: Services) -> GenerationEndpoint[ChatCompletionRequest]:
    return GenerationEndpoint(
        room,
        "/v1/chat/completions",
        model=ChatCompletionRequest,
        id_prefix="chatcmpl",
        task=partial(_task, room.store.completions),
        summary="Answer a conversation, whole or as a stream.",
        documentation=documented(
            ChatCompletionRequest,
            answer="openai.types.chat:ChatCompletion",
            event="openai.types.chat:ChatCompletionChunk",
            example=_EXAMPLE,
        ),
    )


def _task(stored: StoredCompletions, body: ChatCompletionRequest, context: Context) -> Task:
    turn = plan(
        context.engine,
        body.conversation(),
        tools=body.offered_tools(),
        choice=body.choice(),
        parallel=body.parallel_tool_calls is not False,
        structure=body.response_format.structure() if body.response_format else None,
        reasoning_effort=body.reasoning_effort,
    )
    return Task(
        [turn.conversation],
        "messages",
        turn.sampling(body.options()),
        partial(ChatAnswer, form=turn.form, logprobs=bool(body.logprobs), kept=bool(body.store)),
        include_usage=body.include_usage,
        continuous_usage=body.continuous_usage,
        loose=turn.loose,
        more={"service_tier": "default"} if body.service_tier is not None else {},
        keep=partial(_keep, stored, context.owner, body) if body.store else None,
    )


async def _keep(
    stored: StoredCompletions, owner: str, body: ChatCompletionRequest, answer: bytes
) -> None:
    messages = [message.model_dump(exclude_unset=True, by_alias=True) for message in body.messages]
    await stored.save(owner, msgspec.json.decode(answer), messages, body.metadata)
