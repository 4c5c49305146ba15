"""`GET /v1/models` and `GET /v1/models/{model}`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from gateway.api.schemas import documented
from gateway.deployments import Deployment
from gateway.services import PrincipalDep, ServicesDep, resolve

router = APIRouter(tags=["models"])


@router.get("/v1/models", openapi_extra=documented(answer="openai.types:Model", listed=True))
async def list_models(room: ServicesDep, caller: PrincipalDep) -> dict[str, Any]:
    """Every model and adapter the caller may use, each by its own name; aliases are not listed."""
    seen = [one for one in room.deployments if caller.scopes.allow_model(one.name)]
    return {"object": "list", "data": [_model(deployment) for deployment in seen]}


@router.get("/v1/models/{model:path}", openapi_extra=documented(answer="openai.types:Model"))
async def retrieve_model(model: str, room: ServicesDep, caller: PrincipalDep) -> dict[str, Any]:
    """One model, also by an alias; names may hold slashes. 404 for one that isn't served."""
    return _model(resolve(room, caller, model))


def _model(deployment: Deployment) -> dict[str, Any]:
    return {
        "id": deployment.name,
        "object": "model",
        "created": deployment.created,
        "owned_by": deployment.owned_by,
    }
