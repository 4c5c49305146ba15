"""What the routers share, built once by `app.build_app` and found in `app.state`."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Final

import msgspec
from fastapi import Depends, Request
from starlette.types import Scope

from engine.base import EngineInfo
from gateway import exchange
from gateway.adapters import Adapters
from gateway.admission import Admission
from gateway.auth import Authenticator, require_keys_beyond_loopback, say_who_may_call
from gateway.config import GatewayConfig
from gateway.deployments import Deployment, Deployments, unknown_model
from gateway.errors import (
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from gateway.keys import KeyRing
from gateway.keys.tenancy import Tenancy
from gateway.ledger import Entry, Ledger
from gateway.lifecycle import Lifecycle
from gateway.limits import Limiter, Reservation
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.poolings import Poolings
from gateway.protocol.parse import Wire, parse
from gateway.recall import Recall
from gateway.responses.background import BackgroundResponses
from gateway.sse import Reply
from gateway.store.state import Store
from gateway.tenants import Principal

MAX_TIMEOUT_S: Final = 86_400
_TIMEOUT: Final = b"x-request-timeout"
_RETRIES: Final = b"x-stainless-retry-count"


@dataclass(frozen=True)
class Services:
    """The rooms of one running gateway."""

    config: GatewayConfig
    deployments: Deployments
    adapters: Adapters
    lifecycle: Lifecycle
    authenticator: Authenticator
    administrators: Authenticator
    keys: KeyRing
    tenancy: Tenancy
    admission: Admission
    limiter: Limiter
    ledger: Ledger
    recall: Recall
    pipeline: Pipeline
    poolings: Poolings
    reply: Reply
    background: BackgroundResponses
    metrics: Metrics
    store: Store

    async def open(self) -> None:
        """Learn what the database knows: who may call, and what they have used.

        Raises ConfigError where other machines could call without a key, or a database that is to
        be shared can't be reached; UnavailableError.
        """
        await self.store.start()
        await self.keys.start()
        require_keys_beyond_loopback(self.config.server.host, self.authenticator)
        say_who_may_call(self.authenticator)
        await self.ledger.start()
        await self.limiter.start()
        await self.recall.start()

    async def close(self) -> None:
        """Write everything down."""
        await self.recall.close()
        await self.limiter.close()
        await self.ledger.close()
        await self.keys.close()
        await self.store.close()


async def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


ServicesDep = Annotated[Services, Depends(services)]


async def principal(request: Request, room: ServicesDep) -> Principal:
    """Raises AuthenticationError (401), PermissionDeniedError (403)."""
    return identify(request, room)


def identify(request: Request, room: Services) -> Principal:
    """Who is calling; their answer, whatever it is, tells what is left of their limits. Raises
    AuthenticationError (401), PermissionDeniedError (403)."""
    scope = request.scope
    who = room.authenticator.authenticate(
        _header(scope, b"authorization"), _header(scope, b"x-api-key")
    )
    state = scope["state"]
    state["principal"] = who.name
    if who.accounts:
        state["limits"] = partial(room.limiter.headers, who.accounts)
    if not who.scopes.allow_path(scope["path"]):
        raise PermissionDeniedError("This API key may not use this endpoint.")
    return who


def _header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, which is in lower case. Starlette's mapping costs ten times as
    much, and a request has half a dozen to be asked for."""
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return None


def open_entry(request: Request, who: Principal, route: str) -> Entry:
    """The line of the ledger of a request that is for a model: written when it ends, at the latest
    with its answer."""
    state = request.scope["state"]
    entry: Entry = Entry(
        request_id=state["request_id"],
        at=time.time(),
        caller=who.name,
        endpoint=route,
        key_id=who.key_id,
        team=who.team,
    )
    state["entry"] = entry
    return entry


def resolve(room: Services, who: Principal, name: str | None) -> Deployment:
    """What `name` stands for; the first model where a request names none. Raises NotFoundError
    (404), also for what the caller may not use."""
    if who.scopes.models is None:
        return room.deployments.default if name is None else room.deployments.resolve(name)
    # What else there is is none of this caller's business.
    found = room.deployments.default if name is None else room.deployments.find(name)
    if found is None or not who.scopes.allow_model(found.name):
        raise (
            unknown_model(name)
            if name is not None
            else NotFoundError(
                "Name a 'model': this API key may not use the server's first one.",
                code="model_not_found",
                param="model",
            )
        )
    return found


@asynccontextmanager
async def counted(room: Services, who: Principal) -> AsyncIterator[None]:
    """A request that no model answers counts as one of its accounts' requests all the same. Raises
    RateLimitError (429)."""
    if not who.accounts:
        yield
        return
    found = room.limiter.reserve(who.accounts, 0, 0)
    reservation = found if isinstance(found, Reservation) else await found
    try:
        yield
    finally:
        reservation.settle(0, 0)


def is_returning(request: Request) -> bool | None:
    """Whether an SDK of OpenAI's says that it was refused before; None where nothing says."""
    retries = _header(request.scope, _RETRIES)
    return None if retries is None else retries != "0"


def deadline_of(request: Request, room: Services, arrived: float) -> float | None:
    """When the answer has to be there, on the clock of `arrived`; None: whenever. To be asked for
    before the body, which has to be there by then, too. Raises InvalidRequestError (400)."""
    given, most = _header(request.scope, _TIMEOUT), room.config.admission.timeout_s
    seconds = most
    if given is not None:
        asked = _timeout(given)
        seconds = min(asked, most or asked)
    if seconds is None:
        return None
    deadline = request.scope["state"]["deadline"] = arrived + seconds
    return deadline


def _timeout(given: str) -> float:
    """Seconds. Raises InvalidRequestError (400)."""
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise InvalidRequestError(
            f"Invalid 'X-Request-Timeout' header: expected seconds, more than 0 and at most "
            f"{MAX_TIMEOUT_S}.",
            code="invalid_header",
        )
    return seconds


PrincipalDep = Annotated[Principal, Depends(principal)]


async def read_body(request: Request, config: GatewayConfig) -> bytes:
    """The body, within its size and time, and before the answer is to be there. Raises
    InvalidRequestError (408, 413, 415), DeadlineError (408)."""
    limit = config.server.max_body_bytes
    content_type = _header(request.scope, b"content-type") or ""
    content_type = content_type.partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise InvalidRequestError(
            "Unsupported content type: send the body as 'Content-Type: application/json'.",
            status=415,
            code="unsupported_content_type",
        )
    declared = _header(request.scope, b"content-length") or ""
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    whole = exchange.of(request.scope).body
    if whole is not None:
        if len(whole) > limit:
            raise _too_large(limit)
        return whole
    body = bytearray()
    deadline = request.scope["state"].get("deadline", math.inf)
    left, most = deadline - time.perf_counter(), config.server.body_timeout_s
    try:
        async with asyncio.timeout(min(left, most)):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        if left < most:
            raise DeadlineError from None
        raise InvalidRequestError(
            f"The request body did not arrive within {most:g} s.",
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


@lru_cache(maxsize=64)
def fingerprint(info: EngineInfo, adapter: str | None = None) -> str:
    """`system_fingerprint`: changes when what answers changes, so that `seed` can be judged."""
    return "fp_" + hashlib.sha256(msgspec.json.encode([info, adapter])).hexdigest()[:12]
