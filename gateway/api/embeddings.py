"""`POST /v1/embeddings`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.pooling import Embedder, Vector
from gateway import exchange
from gateway.api.schemas import documented
from gateway.errors import InvalidRequestError
from gateway.ids import new_id
from gateway.poolings import Pooling
from gateway.protocol.embeddings import MAX_TOKENS, EmbeddingRequest, embedding_list
from gateway.services import (
    PrincipalDep,
    ServicesDep,
    deadline_of,
    open_entry,
    read_json,
    resolve,
)

router = APIRouter(tags=["embeddings"])


@router.post(
    "/v1/embeddings",
    openapi_extra=documented(
        EmbeddingRequest,
        answer="gateway.protocol.answers:EmbeddingList",
        example={"model": "", "input": ["one text", "another"]},
    ),
)
async def embeddings(request: Request, room: ServicesDep, caller: PrincipalDep) -> Response:
    """A vector for each input, as numbers or as base64 of little-endian float32."""
    entry = open_entry(request, caller, "/v1/embeddings")
    deadline = deadline_of(request, room, request.scope["state"]["arrived"])
    body = await read_json(request, room, EmbeddingRequest)
    deployment = resolve(room, caller, body.model)
    entry.model = deployment.name

    async def work(embedder: Embedder, pooling: Pooling) -> tuple[Sequence[Vector], int]:
        prompts, tokens = [], 0
        for source in body.inputs():
            prompts.append(await embedder.render(source))
            tokens += len(prompts[-1].token_ids)
            if tokens > MAX_TOKENS:
                raise _too_many_tokens()
        await pooling.begin(tokens, len(prompts))
        answer_id = new_id("embd")
        return await embedder.embed(answer_id, prompts, body.dimensions, pooling.read), tokens

    vectors, tokens = await room.poolings.run(
        deployment, caller, entry, exchange.of(request.scope), work, deadline=deadline
    )
    encoding = body.encoding_format or "float"
    answer = embedding_list(vectors, deployment.name, tokens, encoding)
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _too_many_tokens() -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid 'input': all inputs together may have {MAX_TOKENS} tokens in one request.",
        code="max_tokens_per_request",
        param="input",
    )
