"""What the routers share, built once by `app.build_app` and found in `app.state`."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import msgspec
from fastapi import Depends, Request

from engine.base import EngineInfo
from gateway import exchange
from gateway.adapters import Adapters
from gateway.admission import Admission
from gateway.auth import Authenticator, Principal
from gateway.config import GatewayConfig
from gateway.deployments import Deployments
from gateway.errors import InvalidRequestError
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.poolings import Poolings
from gateway.protocol.parse import Wire, parse
from gateway.responses.background import BackgroundResponses
from gateway.sse import Reply
from gateway.store.state import Store


@dataclass(frozen=True)
class Services:
    """The rooms of one running gateway."""

    config: GatewayConfig
    deployments: Deployments
    adapters: Adapters
    lifecycle: Lifecycle
    authenticator: Authenticator
    administrators: Authenticator
    admission: Admission
    pipeline: Pipeline
    poolings: Poolings
    reply: Reply
    background: BackgroundResponses
    metrics: Metrics
    store: Store


async def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


ServicesDep = Annotated[Services, Depends(services)]


async def principal(request: Request, room: ServicesDep) -> Principal:
    """Raises AuthenticationError (401)."""
    return identify(request, room)


def identify(request: Request, room: Services) -> Principal:
    """Who is calling. Raises AuthenticationError (401)."""
    who = room.authenticator.authenticate(
        request.headers.get("authorization"), request.headers.get("x-api-key")
    )
    request.scope["state"]["principal"] = who.name
    return who


PrincipalDep = Annotated[Principal, Depends(principal)]


async def read_body(request: Request, config: GatewayConfig) -> bytes:
    """The body, within its size and time. Raises InvalidRequestError (408, 413, 415)."""
    limit = config.server.max_body_bytes
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise InvalidRequestError(
            "Unsupported content type: send the body as 'Content-Type: application/json'.",
            status=415,
            code="unsupported_content_type",
        )
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    whole = exchange.of(request.scope).body
    if whole is not None:
        if len(whole) > limit:
            raise _too_large(limit)
        return whole
    body = bytearray()
    try:
        async with asyncio.timeout(config.server.body_timeout_s):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise InvalidRequestError(
            f"The request body did not arrive within {config.server.body_timeout_s:g} s.",
            status=408,
            code="request_timeout",
            headers={"x-should-retry": "false"},
        ) from None
    return bytes(body)


def _too_large(limit: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"The request body is larger than the {limit} bytes this server accepts.",
        status=413,
        code="request_too_large",
    )


async def read_json(request: Request, room: Services, model: type[Wire]) -> Wire:
    """Read and validate a JSON body. Raises InvalidRequestError."""
    body = await read_body(request, room.config)
    return parse(model, body, ignore_unknown=room.config.server.unknown_fields == "ignore")


def new_id(prefix: str) -> str:
    """An unguessable id: `chatcmpl-…`, or `msg_…` where the prefix has a joint of its own."""
    joint = "" if prefix.endswith("_") else "-"
    return f"{prefix}{joint}{secrets.token_hex(16)}"


@lru_cache(maxsize=64)
def fingerprint(info: EngineInfo, adapter: str | None = None) -> str:
    """`system_fingerprint`: changes when what answers changes, so that `seed` can be judged."""
    return "fp_" + hashlib.sha256(msgspec.json.encode([info, adapter])).hexdigest()[:12]
