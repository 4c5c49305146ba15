"""`POST /v1/rerank` and `POST /v1/score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

from engine.base import InvalidPromptError
from engine.pooling import Embedder, Scores
from gateway import exchange
from gateway.api.schemas import documented
from gateway.deployments import Deployment
from gateway.errors import InvalidRequestError
from gateway.ids import new_id
from gateway.ledger import Entry
from gateway.poolings import Pooling
from gateway.protocol.rerank import RerankRequest, ScoreRequest, ranking, score_list
from gateway.services import (
    PrincipalDep,
    Services,
    ServicesDep,
    deadline_of,
    open_entry,
    read_json,
    resolve,
)
from gateway.tenants import Principal

MAX_CHARACTERS = 2_000_000

router = APIRouter(tags=["rerank"])


@router.post(
    "/v1/rerank",
    openapi_extra=documented(
        RerankRequest,
        answer="gateway.protocol.answers:Ranking",
        example={"model": "", "query": "capital of Japan", "documents": ["Paris", "Tokyo"]},
    ),
)
async def rerank(request: Request, room: ServicesDep, caller: PrincipalDep) -> dict[str, Any]:
    """Documents by how well they answer a query, the best first."""
    entry = open_entry(request, caller, "/v1/rerank")
    deadline = deadline_of(request, room, request.scope["state"]["arrived"])
    body = await read_json(request, room, RerankRequest)
    deployment, answer_id = resolve(room, caller, body.model), new_id("rerank")
    pairs = [(body.query, text) for text in body.texts()]
    asked = _Asked(request, room, caller, entry, deployment, deadline)
    scores = await asked.scores(answer_id, pairs, "documents")
    return ranking(answer_id, deployment.name, body, scores)


@router.post(
    "/v1/score",
    openapi_extra=documented(
        ScoreRequest,
        answer="gateway.protocol.answers:ScoreList",
        example={"model": "", "text_1": "capital of Japan", "text_2": ["Paris", "Tokyo"]},
    ),
)
async def score(request: Request, room: ServicesDep, caller: PrincipalDep) -> dict[str, Any]:
    """How alike or relevant to one another two texts are, or the texts of several pairs."""
    entry = open_entry(request, caller, "/v1/score")
    deadline = deadline_of(request, room, request.scope["state"]["arrived"])
    body = await read_json(request, room, ScoreRequest)
    deployment, answer_id = resolve(room, caller, body.model), new_id("score")
    asked = _Asked(request, room, caller, entry, deployment, deadline)
    scores = await asked.scores(answer_id, body.pairs(), "text_2")
    return score_list(answer_id, deployment.name, scores)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for scores, and who answers it."""

    request: Request
    room: Services
    caller: Principal
    entry: Entry
    deployment: Deployment
    deadline: float | None

    async def scores(self, answer_id: str, pairs: Sequence[tuple[str, str]], param: str) -> Scores:
        # A cross-encoder reads both texts of every pair.
        if sum(len(one) + len(other) for one, other in pairs) > MAX_CHARACTERS:
            raise InvalidRequestError(
                f"Invalid '{param}': all pairs together may have {MAX_CHARACTERS:,} characters in "
                "one request.",
                code="invalid_value",
                param=param,
            )
        self.entry.model = self.deployment.name

        async def work(embedder: Embedder, pooling: Pooling) -> Scores:
            try:
                return await embedder.score(answer_id, pairs, pooling.begin, pooling.read)
            except InvalidPromptError as error:
                error.param = param
                raise

        request, room = self.request, self.room
        return await room.poolings.run(
            self.deployment,
            self.caller,
            self.entry,
            exchange.of(request.scope),
            work,
            deadline=self.deadline,
        )
