"""`POST /v1/chat/completions`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.answers import ChatAnswer
from gateway.api.generation import heading, respond
from gateway.api.schemas import documented
from gateway.protocol.chat import ChatCompletionRequest
from gateway.services import PrincipalDep, ServicesDep, new_id, read_json

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", openapi_extra=documented(ChatCompletionRequest))
async def create_chat_completion(
    request: Request, room: ServicesDep, _caller: PrincipalDep
) -> Response:
    """Answer a conversation, whole or as a stream."""
    body = await read_json(request, room, ChatCompletionRequest)
    room.require_model(body.model)
    answer_id = new_id("chatcmpl")
    return respond(
        room,
        body,
        ChatAnswer(heading(room, body, answer_id)),
        request=request,
        answer_id=answer_id,
        sources=[body.conversation()],
        param="messages",
        max_tokens=body.token_limit(),
    )
