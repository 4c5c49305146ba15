"""`POST /v1/messages`, `POST /v1/messages/count_tokens`: Anthropic's API, which coding agents
speak. Errors on these paths are in its words, see `gateway.dialect`."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request

from engine.base import ContextLengthError
from gateway.answers.messages import MessagesAnswer, ThinkingDisplay
from gateway.api.generation import Context, GenerationEndpoint, Task
from gateway.api.schemas import documented
from gateway.dialect import MESSAGES_PATH
from gateway.protocol.messages import CountTokensRequest, MessagesRequest, Thinking
from gateway.services import PrincipalDep, Services, ServicesDep, counted, read_json, resolve

router = APIRouter(tags=["messages"])

_EXAMPLE = {"model": "", "messages": [{"role": "user", "content": "What is 2+2?"}]}


def endpoint(room: Services) -> GenerationEndpoint[MessagesRequest]:
    return GenerationEndpoint(
        room,
        MESSAGES_PATH,
        model=MessagesRequest,
        id_prefix="msg_",
        task=_task,
        summary="Answer a conversation, whole or as a stream, in Anthropic's API.",
        documentation=documented(
            MessagesRequest,
            answer="gateway.protocol.answers:MessagesAnswer",
            event="gateway.protocol.answers:MessagesEvent",
            error="gateway.protocol.answers:MessagesError",
            example=_EXAMPLE | {"max_tokens": 32},
        ),
    )


def _task(body: MessagesRequest, context: Context) -> Task:
    turn = body.turn(context.engine)
    answer = partial(
        MessagesAnswer,
        form=turn.form,
        max_tokens=body.max_tokens,
        thinking=_display(body.thinking),
    )
    return Task(
        [turn.conversation],
        "messages",
        turn.sampling(body.options()),
        answer,
        loose=turn.loose,
        clipped=True,
    )


def _display(thinking: Thinking | None) -> ThinkingDisplay:
    if thinking is None:
        return "told"
    if thinking.type == "disabled":
        return "hidden"
    return "omitted" if thinking.display == "omitted" else "told"


@router.post(
    MESSAGES_PATH + "/count_tokens",
    openapi_extra=documented(
        CountTokensRequest,
        answer="gateway.protocol.answers:InputTokens",
        error="gateway.protocol.answers:MessagesError",
        example=_EXAMPLE,
    ),
)
async def count_tokens(request: Request, room: ServicesDep, caller: PrincipalDep) -> dict[str, int]:
    """How many tokens a request's prompt is, also where it is too long to be answered."""
    body = await read_json(request, room, CountTokensRequest)
    engine = resolve(room, caller, body.model).engine()
    room.lifecycle.require_open()
    try:
        async with counted(room, caller):
            prompt = await engine.render(body.turn(engine).conversation)
    except ContextLengthError as error:
        return {"input_tokens": error.prompt_tokens}
    return {"input_tokens": len(prompt.token_ids)}
