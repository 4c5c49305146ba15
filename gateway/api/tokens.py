"""`POST /tokenize`, `POST /detokenize`: the server's own tokenizer, as vLLM's server offers it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.api.schemas import documented
from gateway.deployments import Deployment
from gateway.protocol.tokens import DetokenizeRequest, TokenizeRequest
from gateway.services import PrincipalDep, Services, ServicesDep, read_json

router = APIRouter(tags=["tokens"])


@router.post(
    "/tokenize",
    openapi_extra=documented(
        TokenizeRequest,
        answer="gateway.protocol.answers:TokenList",
        example={"model": "", "prompt": "Hello"},
    ),
)
async def tokenize(request: Request, room: ServicesDep, _caller: PrincipalDep) -> dict[str, Any]:
    """Token ids and their count, of a text or of a rendered conversation."""
    body = await read_json(request, room, TokenizeRequest)
    deployment = _deployment(room, body.model)
    engine = deployment.model()
    if body.prompt is not None:
        tokens = await engine.tokenize(body.prompt, add_special_tokens=body.add_special_tokens)
    else:
        tokens = list((await deployment.engine().render(body.conversation())).token_ids)
    return {
        "count": len(tokens),
        "max_model_len": engine.info.max_model_len,
        "tokens": tokens,
    }


@router.post(
    "/detokenize",
    openapi_extra=documented(
        DetokenizeRequest,
        answer="gateway.protocol.answers:DetokenizedText",
        example={"model": "", "tokens": [1, 2]},
    ),
)
async def detokenize(request: Request, room: ServicesDep, _caller: PrincipalDep) -> dict[str, Any]:
    """The text of token ids."""
    body = await read_json(request, room, DetokenizeRequest)
    return {"prompt": await _deployment(room, body.model).model().detokenize(body.tokens)}


def _deployment(room: Services, name: str | None) -> Deployment:
    """What `name` stands for; the first model where a request names none."""
    found = room.deployments.default if name is None else room.deployments.resolve(name)
    room.lifecycle.require_open()
    return found
