"""`POST /tokenize`, `POST /detokenize`: the server's own tokenizer, as vLLM's server offers it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.api.schemas import documented
from gateway.protocol.tokens import DetokenizeRequest, TokenizeRequest
from gateway.services import PrincipalDep, ServicesDep, read_json

router = APIRouter(tags=["tokens"])


@router.post("/tokenize", openapi_extra=documented(TokenizeRequest))
async def tokenize(request: Request, room: ServicesDep, _caller: PrincipalDep) -> dict[str, Any]:
    """Token ids and their count, of a text or of a rendered conversation."""
    body = await read_json(request, room, TokenizeRequest)
    room.require_model(body.model or room.config.public_name)
    engine = room.lifecycle.engine()
    if body.prompt is not None:
        tokens = await engine.tokenize(body.prompt, add_special_tokens=body.add_special_tokens)
    else:
        tokens = list((await engine.render(body.conversation())).token_ids)
    return {
        "count": len(tokens),
        "max_model_len": engine.info.max_model_len,
        "tokens": tokens,
    }


@router.post("/detokenize", openapi_extra=documented(DetokenizeRequest))
async def detokenize(request: Request, room: ServicesDep, _caller: PrincipalDep) -> dict[str, Any]:
    """The text of token ids."""
    body = await read_json(request, room, DetokenizeRequest)
    room.require_model(body.model or room.config.public_name)
    return {"prompt": await room.lifecycle.engine().detokenize(body.tokens)}
