"""`POST /v1/completions`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.answers import TextAnswer
from gateway.api.generation import heading, respond
from gateway.api.schemas import documented
from gateway.protocol.completions import CompletionRequest
from gateway.services import PrincipalDep, ServicesDep, new_id, read_json

router = APIRouter(tags=["completions"])


@router.post("/v1/completions", openapi_extra=documented(CompletionRequest))
async def create_completion(request: Request, room: ServicesDep, _caller: PrincipalDep) -> Response:
    """Continue one or more prompts, whole or as a stream."""
    body = await read_json(request, room, CompletionRequest)
    room.require_model(body.model)
    answer_id = new_id("cmpl")
    return respond(
        room,
        body,
        TextAnswer(heading(room, body, answer_id)),
        request=request,
        answer_id=answer_id,
        sources=body.prompts(),
        param="prompt",
        max_tokens=body.token_limit(),
    )
