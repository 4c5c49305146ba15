"""`/admin/v1/adapters`: LoRA adapters loaded and unloaded while the program runs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.api.admin.access import ActorDep, TenancyDep, read_strictly
from gateway.api.schemas import documented
from gateway.deployments import Deployment
from gateway.protocol.admin import AdapterRequest
from gateway.services import ServicesDep

router = APIRouter(prefix="/adapters")


@router.get(
    "",
    openapi_extra=documented(answer="gateway.protocol.answers:Adapter", listed=True),
)
async def list_adapters(room: ServicesDep) -> dict[str, Any]:
    """Every adapter that is served, and its model."""
    return {"object": "list", "data": [_adapter(found) for found in room.adapters]}


@router.post(
    "",
    openapi_extra=documented(
        AdapterRequest,
        answer="gateway.protocol.answers:Adapter",
        example={"name": "my-adapter", "path": "my-adapter", "base": "my-model"},
    ),
)
async def load_adapter(
    request: Request, room: ServicesDep, tenancy: TenancyDep, actor: ActorDep
) -> dict[str, Any]:
    """Load an adapter and serve it; it is not remembered for the next start."""
    body = await read_strictly(request, room, AdapterRequest)
    room.lifecycle.require_open()
    loaded = await room.adapters.load(body.name, body.path, body.base)
    await tenancy.note(actor, "adapter.load", body.name, {"path": body.path, "base": body.base})
    return _adapter(loaded)


@router.delete(
    "/{name:path}",
    openapi_extra=documented(answer="gateway.protocol.answers:AdapterDeleted"),
)
async def unload_adapter(
    name: str, room: ServicesDep, tenancy: TenancyDep, actor: ActorDep
) -> dict[str, Any]:
    """Refuse new requests for it at once; answered when those that ran are over and it is gone."""
    await room.adapters.unload(name)
    await tenancy.note(actor, "adapter.unload", name, {})
    return {"id": name, "object": "adapter", "deleted": True}


def _adapter(found: Deployment) -> dict[str, Any]:
    return {
        "id": found.name,
        "object": "adapter",
        "created": found.created,
        "base": found.replica.name,
    }
