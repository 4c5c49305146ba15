"""`/admin/adapters`: LoRA adapters loaded and unloaded while the program runs.

Only for the keys of `auth.admin_keys`; where none is configured these routes don't exist.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request

from gateway.api.schemas import documented
from gateway.deployments import Deployment
from gateway.protocol.admin import AdapterRequest
from gateway.services import ServicesDep, read_json


async def _administrator(request: Request, room: ServicesDep) -> None:
    """Raises AuthenticationError (401)."""
    request.scope["state"]["principal"] = room.administrators.authenticate(
        request.headers.get("authorization")
    ).name


# Included only where there are administrators: without keys everyone would be one.
router = APIRouter(tags=["admin"], prefix="/admin", dependencies=[Depends(_administrator)])


@router.get(
    "/adapters",
    openapi_extra=documented(answer="gateway.protocol.answers:Adapter", listed=True),
)
async def list_adapters(room: ServicesDep) -> dict[str, Any]:
    """Every adapter that is served, and its model."""
    return {"object": "list", "data": [_adapter(found) for found in room.adapters]}


@router.post(
    "/adapters",
    openapi_extra=documented(
        AdapterRequest,
        answer="gateway.protocol.answers:Adapter",
        example={"name": "my-adapter", "path": "my-adapter", "base": "my-model"},
    ),
)
async def load_adapter(request: Request, room: ServicesDep) -> dict[str, Any]:
    """Load an adapter and serve it; it is not remembered for the next start."""
    body = await read_json(request, room, AdapterRequest)
    room.lifecycle.require_open()
    return _adapter(await room.adapters.load(body.name, body.path, body.base))


@router.delete(
    "/adapters/{name:path}",
    openapi_extra=documented(answer="gateway.protocol.answers:AdapterDeleted"),
)
async def unload_adapter(name: str, room: ServicesDep) -> dict[str, Any]:
    """Refuse new requests for it at once; answered when those that ran are over and it is gone."""
    await room.adapters.unload(name)
    return {"id": name, "object": "adapter", "deleted": True}


def _adapter(found: Deployment) -> dict[str, Any]:
    return {
        "id": found.name,
        "object": "adapter",
        "created": found.created,
        "base": found.replica.name,
    }
