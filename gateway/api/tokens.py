"""`POST /tokenize`, `POST /detokenize`: the server's own tokenizer, as vLLM's server offers it."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.lists import answered
from gateway.api.schemas import documented
from gateway.deployments import Deployment
from gateway.protocol.tokens import DetokenizeRequest, TokenizeRequest
from gateway.services import PrincipalDep, Services, ServicesDep, counted, read_json, resolve
from gateway.tenants import Principal

router = APIRouter(tags=["tokens"])


@router.post(
    "/tokenize",
    openapi_extra=documented(
        TokenizeRequest,
        answer="gateway.protocol.answers:TokenList",
        example={"model": "", "prompt": "Hello"},
    ),
)
async def tokenize(request: Request, room: ServicesDep, caller: PrincipalDep) -> Response:
    """Token ids and their count, of a text or of a rendered conversation."""
    body = await read_json(request, room, TokenizeRequest)
    deployment = _deployment(room, caller, body.model)
    engine = deployment.model()
    async with counted(room, caller):
        if body.prompt is not None:
            tokens = await engine.tokenize(body.prompt, add_special_tokens=body.add_special_tokens)
        else:
            tokens = list((await deployment.engine().render(body.conversation())).token_ids)
    found = {"count": len(tokens), "max_model_len": engine.info.max_model_len, "tokens": tokens}
    return answered(msgspec.json.encode(found))


@router.post(
    "/detokenize",
    openapi_extra=documented(
        DetokenizeRequest,
        answer="gateway.protocol.answers:DetokenizedText",
        example={"model": "", "tokens": [1, 2]},
    ),
)
async def detokenize(request: Request, room: ServicesDep, caller: PrincipalDep) -> dict[str, Any]:
    """The text of token ids."""
    body = await read_json(request, room, DetokenizeRequest)
    model = _deployment(room, caller, body.model).model()
    async with counted(room, caller):
        return {"prompt": await model.detokenize(body.tokens)}


def _deployment(room: Services, caller: Principal, name: str | None) -> Deployment:
    found = resolve(room, caller, name)
    room.lifecycle.require_open()
    return found
