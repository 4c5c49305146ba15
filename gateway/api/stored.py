"""Stored chat completions: `GET /v1/chat/completions` and what is below it."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.lists import answered, asked, listed, query_parameters
from gateway.api.schemas import documented
from gateway.errors import NotFoundError
from gateway.protocol.lists import ListQuery, parse_query
from gateway.protocol.stored import (
    CompletionsQuery,
    UpdateCompletion,
    completion_deleted,
    stored_message,
)
from gateway.services import PrincipalDep, ServicesDep, read_json
from gateway.store.paging import Page

router = APIRouter(tags=["stored chat completions"])

T = TypeVar("T")

_ONE = "/v1/chat/completions/{completion_id}"
_COMPLETION = "openai.types.chat:ChatCompletion"


@router.get(
    "/v1/chat/completions",
    openapi_extra={
        **documented(answer=_COMPLETION, listed=True),
        **query_parameters(CompletionsQuery),
    },
)
async def list_completions(request: Request, room: ServicesDep, caller: PrincipalDep) -> Response:
    """The caller's stored completions, by time."""
    query = parse_query(CompletionsQuery, request.query_params.multi_items())
    page = await room.store.completions.list(
        caller.owner,
        asked(query),
        model=query.model,
        metadata=query.metadata,
    )
    return listed(page)


@router.get(_ONE, openapi_extra=documented(answer=_COMPLETION))
async def retrieve_completion(
    completion_id: str, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """One stored completion."""
    found = await room.store.completions.retrieve(caller.owner, completion_id)
    return answered(_found(found, completion_id))


@router.post(
    _ONE,
    openapi_extra=documented(
        UpdateCompletion, answer=_COMPLETION, example={"metadata": {"topic": "capitals"}}
    ),
)
async def update_completion(
    completion_id: str, request: Request, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """Replace a stored completion's metadata."""
    body = await read_json(request, room, UpdateCompletion)
    updated = await room.store.completions.update(caller.owner, completion_id, body.metadata or {})
    return answered(_found(updated, completion_id))


@router.delete(_ONE, openapi_extra=documented(answer="openai.types.chat:ChatCompletionDeleted"))
async def delete_completion(
    completion_id: str, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """Delete a stored completion and its messages."""
    deleted = await room.store.completions.delete(caller.owner, completion_id)
    _found(deleted or None, completion_id)
    return answered(msgspec.json.encode(completion_deleted(completion_id)))


@router.get(
    _ONE + "/messages",
    openapi_extra={
        **documented(answer="gateway.protocol.answers:StoredMessage", listed=True),
        **query_parameters(ListQuery),
    },
)
async def list_messages(
    completion_id: str, request: Request, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """The messages of the request that led to a stored completion."""
    query = parse_query(ListQuery, request.query_params.multi_items())
    found = await room.store.completions.messages(caller.owner, completion_id, asked(query))
    page = _found(found, completion_id)
    bodies = [
        msgspec.json.encode(stored_message(message_id, msgspec.json.decode(body)))
        for message_id, body in zip(page.ids, page.bodies, strict=True)
    ]
    return listed(Page(page.ids, bodies, page.has_more))


def _found(value: T | None, completion_id: str) -> T:
    """Raises NotFoundError (404)."""
    if value is None:
        raise NotFoundError(f"No stored chat completion found with id '{completion_id[:128]}'.")
    return value
