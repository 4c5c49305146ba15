"""`GET /v1/models` and `GET /v1/models/{model}`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from gateway.services import PrincipalDep, Services, ServicesDep

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(room: ServicesDep, _caller: PrincipalDep) -> dict[str, Any]:
    """Every model this server has."""
    return {"object": "list", "data": [_model(room)]}


@router.get("/v1/models/{model:path}")
async def retrieve_model(model: str, room: ServicesDep, _caller: PrincipalDep) -> dict[str, Any]:
    """One model; names may hold slashes. 404 for one that isn't served."""
    room.require_model(model)
    return _model(room)


def _model(room: Services) -> dict[str, Any]:
    return {
        "id": room.config.public_name,
        "object": "model",
        "created": room.started,
        "owned_by": "gateway",
    }
