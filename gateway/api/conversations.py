"""`/v1/conversations` and the items below it."""

from __future__ import annotations

import time
from typing import TypeVar

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.lists import answered, asked, listed, query_parameters
from gateway.api.schemas import documented
from gateway.errors import NotFoundError
from gateway.protocol.conversations import (
    CreateConversation,
    CreateItems,
    ItemQuery,
    ItemsQuery,
    UpdateConversation,
    conversation,
    conversation_deleted,
)
from gateway.protocol.items import new_item_id
from gateway.protocol.lists import parse_query
from gateway.services import PrincipalDep, ServicesDep, read_json
from gateway.store.paging import Page

router = APIRouter(tags=["conversations"])

T = TypeVar("T")

_ONE = "/v1/conversations/{conversation_id}"
_ITEM = _ONE + "/items/{item_id}"
_CONVERSATION = "openai.types.conversations:Conversation"
_ANY_ITEM = "openai.types.conversations:ConversationItem"


@router.post(
    "/v1/conversations",
    openapi_extra=documented(
        CreateConversation,
        answer=_CONVERSATION,
        example={"metadata": {"topic": "capitals"}},
        optional=True,
    ),
)
async def create(request: Request, room: ServicesDep, caller: PrincipalDep) -> Response:
    """Begin a conversation, with as many as 20 items."""
    headers = request.headers
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    body = CreateConversation() if empty else await read_json(request, room, CreateConversation)
    items = [item.resource() for item in body.items or ()]
    made = conversation(new_item_id("conv"), int(time.time()), body.metadata or {})
    await room.store.conversations.create(caller.owner, made, items)
    return answered(msgspec.json.encode(made))


@router.get(_ONE, openapi_extra=documented(answer=_CONVERSATION))
async def retrieve(conversation_id: str, room: ServicesDep, caller: PrincipalDep) -> Response:
    """One conversation, without its items."""
    found = await room.store.conversations.retrieve(caller.owner, conversation_id)
    return answered(_found(found, conversation_id))


@router.post(
    _ONE,
    openapi_extra=documented(
        UpdateConversation, answer=_CONVERSATION, example={"metadata": {"topic": "rivers"}}
    ),
)
async def update(
    conversation_id: str, request: Request, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """Replace a conversation's metadata."""
    body = await read_json(request, room, UpdateConversation)
    metadata = body.metadata or {}
    updated = await room.store.conversations.update(caller.owner, conversation_id, metadata)
    return answered(_found(updated, conversation_id))


@router.delete(
    _ONE,
    openapi_extra=documented(answer="openai.types.conversations:ConversationDeletedResource"),
)
async def delete(conversation_id: str, room: ServicesDep, caller: PrincipalDep) -> Response:
    """Delete a conversation with its items."""
    deleted = await room.store.conversations.delete(caller.owner, conversation_id)
    _found(deleted or None, conversation_id)
    return answered(msgspec.json.encode(conversation_deleted(conversation_id)))


@router.post(
    _ONE + "/items",
    openapi_extra={
        **documented(
            CreateItems,
            answer=_ANY_ITEM,
            listed=True,
            example={"items": [{"type": "message", "role": "user", "content": "Hello"}]},
        ),
        **query_parameters(ItemQuery),
    },
)
async def create_items(
    conversation_id: str, request: Request, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """Append as many as 20 items; answers with them, their ids included."""
    parse_query(ItemQuery, request.query_params.multi_items())
    body = await read_json(request, room, CreateItems)
    items = [item.resource() for item in body.items]
    added = await room.store.conversations.add_items(caller.owner, conversation_id, items)
    _found(added or None, conversation_id)
    bodies = [msgspec.json.encode(item) for item in items]
    return listed(Page([item["id"] for item in items], bodies))


@router.get(
    _ONE + "/items",
    openapi_extra={**documented(answer=_ANY_ITEM, listed=True), **query_parameters(ItemsQuery)},
)
async def list_items(
    conversation_id: str, request: Request, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """A conversation's items, the newest first where nothing else is asked."""
    query = parse_query(ItemsQuery, request.query_params.multi_items())
    found = await room.store.conversations.list_items(caller.owner, conversation_id, asked(query))
    return listed(_found(found, conversation_id))


@router.get(
    _ITEM,
    openapi_extra={
        **documented(answer=_ANY_ITEM),
        **query_parameters(ItemQuery),
    },
)
async def retrieve_item(
    conversation_id: str, item_id: str, request: Request, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """One item of a conversation."""
    parse_query(ItemQuery, request.query_params.multi_items())
    found = await room.store.conversations.retrieve_item(caller.owner, conversation_id, item_id)
    return answered(_found(found, conversation_id, item_id))


@router.delete(_ITEM, openapi_extra=documented(answer=_CONVERSATION))
async def delete_item(
    conversation_id: str, item_id: str, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """Delete an item; answers with its conversation."""
    stored = room.store.conversations
    deleted = await stored.delete_item(caller.owner, conversation_id, item_id)
    _found(deleted or None, conversation_id, item_id)
    return answered(_found(await stored.retrieve(caller.owner, conversation_id), conversation_id))


def _found(value: T | None, conversation_id: str, item_id: str | None = None) -> T:
    """Raises NotFoundError (404)."""
    if value is None:
        item = f"Item '{item_id[:128]}' of conversation" if item_id is not None else "Conversation"
        raise NotFoundError(f"{item} with id '{conversation_id[:128]}' not found.")
    return value
