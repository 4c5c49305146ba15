"""Who may use the routes of administrators, and how their bodies are read."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from gateway.api.lists import answered
from gateway.keys.objects import encode
from gateway.keys.tenancy import Tenancy
from gateway.protocol.parse import Wire, parse
from gateway.services import ServicesDep, read_body


async def administrator(request: Request, room: ServicesDep) -> str:
    """Who that is, for the audit log. Raises AuthenticationError (401)."""
    name = room.administrators.authenticate(request.headers.get("authorization")).name
    request.scope["state"]["principal"] = name
    return f"admin:{name}"


ActorDep = Annotated[str, Depends(administrator)]


async def _tenancy(room: ServicesDep) -> Tenancy:
    return room.tenancy


TenancyDep = Annotated[Tenancy, Depends(_tenancy)]


async def read_strictly(request: Request, room: ServicesDep, model: type[Wire]) -> Wire:
    """A JSON body, whose unknown fields are refused whatever `server.unknown_fields` says: a limit
    that were ignored for its spelling would let everything through. Raises InvalidRequestError."""
    return parse(model, await read_body(request, room.config))


def told(value: object) -> Response:
    """An answer in JSON."""
    return answered(encode(value))
