"""`/admin/v1/keys`: virtual keys."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.admin.access import ActorDep, TenancyDep, read_strictly, told
from gateway.api.lists import asked, listed, query_parameters
from gateway.api.schemas import documented
from gateway.config import ConfigError
from gateway.errors import RETRY_AFTER_CAP_S, UnavailableError
from gateway.keys.objects import encode, key_object
from gateway.protocol.lists import parse_query
from gateway.protocol.tenancy import CreateKey, KeysQuery, RotateKey, UpdateKey
from gateway.services import ServicesDep
from gateway.store.paging import Page
from gateway.store.tenancy import KeysWanted

router = APIRouter(prefix="/keys")

_ANSWERS = "gateway.protocol.admin_answers"
_KEY = f"{_ANSWERS}:Key"
_NEW_KEY = f"{_ANSWERS}:NewKey"


@router.post(
    "",
    openapi_extra=documented(
        CreateKey,
        answer=_NEW_KEY,
        example={
            "name": "my-app",
            "models": ["my-model"],
            "tpm": 100_000,
            "budgets": [{"unit": "cost", "amount": 25, "window": "month"}],
        },
    ),
)
async def create_key(
    request: Request, room: ServicesDep, tenancy: TenancyDep, actor: ActorDep
) -> Response:
    """Make a key. Its `value` is in this answer only."""
    body = await read_strictly(request, room, CreateKey)
    try:
        key, secret = await tenancy.create_key(actor, body)
    except ConfigError as error:
        raise _no_pepper(error) from None
    return told(key_object(key, time.time(), secret))


@router.get(
    "",
    openapi_extra={**documented(answer=_KEY, listed=True), **query_parameters(KeysQuery)},
)
async def list_keys(request: Request, tenancy: TenancyDep) -> Response:
    """Keys in the order they were made."""
    query = parse_query(KeysQuery, request.query_params.multi_items())
    wanted = KeysWanted(team=query.team, status=query.status)
    keys, has_more = await tenancy.keys(wanted, asked(query))
    now = time.time()
    bodies = [encode(key_object(key, now)) for key in keys]
    return listed(Page([key.id for key in keys], bodies, has_more))


@router.get("/{key_id}", openapi_extra=documented(answer=_KEY))
async def retrieve_key(key_id: str, tenancy: TenancyDep) -> Response:
    """One key."""
    return told(key_object(await tenancy.key(key_id), time.time()))


@router.post(
    "/{key_id}",
    openapi_extra=documented(UpdateKey, answer=_KEY, example={"tpm": 200_000, "rpm": None}),
)
async def update_key(
    key_id: str, request: Request, room: ServicesDep, tenancy: TenancyDep, actor: ActorDep
) -> Response:
    """Change what is given; null takes a limit away."""
    body = await read_strictly(request, room, UpdateKey)
    return told(key_object(await tenancy.update_key(actor, key_id, body), time.time()))


@router.post(
    "/{key_id}/rotate",
    openapi_extra=documented(RotateKey, answer=_NEW_KEY, example={"grace_s": 3600}),
)
async def rotate_key(
    key_id: str, request: Request, room: ServicesDep, tenancy: TenancyDep, actor: ActorDep
) -> Response:
    """Give a key a new `value`, in this answer only; everything else stays."""
    body = await read_strictly(request, room, RotateKey)
    try:
        key, secret = await tenancy.rotate_key(actor, key_id, body.grace_s)
    except ConfigError as error:
        raise _no_pepper(error) from None
    return told(key_object(key, time.time(), secret))


@router.post("/{key_id}/revoke", openapi_extra=documented(answer=_KEY))
async def revoke_key(key_id: str, tenancy: TenancyDep, actor: ActorDep) -> Response:
    """Refuse a key from now on, for good."""
    return told(key_object(await tenancy.revoke_key(actor, key_id), time.time()))


@router.delete("/{key_id}", openapi_extra=documented(answer=f"{_ANSWERS}:KeyDeleted"))
async def delete_key(key_id: str, tenancy: TenancyDep, actor: ActorDep) -> Response:
    """The same as revoking it: what it was stays to be seen."""
    await tenancy.revoke_key(actor, key_id)
    return told({"id": key_id, "object": "key", "deleted": True})


def _no_pepper(error: ConfigError) -> UnavailableError:
    return UnavailableError(
        f"This server can't make keys: {error}.",
        code="keys_not_configured",
        retry_after_s=RETRY_AFTER_CAP_S,
    )
