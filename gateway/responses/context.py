"""What a request continues: the items that were said before it, and its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import InvalidRequestError, NotFoundError
from gateway.protocol.items import InputMessage
from gateway.protocol.response_parts import ItemReference
from gateway.protocol.responses import InputBody
from gateway.responses.ids import response_of
from gateway.store.responses import MAX_CHAIN_BYTES, RUNNING, duplicate_item
from gateway.store.state import Store

Item = Mapping[str, Any]

_MAX_SHOWN = 128


@dataclass(frozen=True, slots=True)
class Context:
    """`before` is what was said already, `given` what the request adds; each has an `id`."""

    before: Sequence[Item]
    given: Sequence[Item]

    @property
    def items(self) -> list[Item]:
        return [*self.before, *self.given]


class _Kept(msgspec.Struct):
    """Of a stored response."""

    status: str
    output: list[dict[str, Any]] = []


async def recall(store: Store, owner: str, body: InputBody) -> Context:
    """Find what `body` continues and refers to.

    Raises InvalidRequestError (400) where it names no response, or one that isn't finished;
    NotFoundError (404) for a conversation or an item that isn't there; UnavailableError.
    """
    before: Sequence[Item] = ()
    if body.previous_response_id is not None:
        before = await _said_until(store, owner, body.previous_response_id)
    elif body.conversation_id is not None:
        before = await _conversation(store, owner, body.conversation_id)
    context = Context(before, await _given(store, owner, body))
    _require_new(context)
    return context


async def _said_until(store: Store, owner: str, response_id: str) -> Sequence[Item]:
    kept = await store.responses.retrieve(owner, response_id)
    items = await store.responses.chain(owner, response_id) if kept is not None else None
    if kept is None or items is None:
        raise InvalidRequestError(
            f"Previous response with id '{response_id[:_MAX_SHOWN]}' not found.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    status = msgspec.json.decode(kept, type=_Kept).status
    if status in RUNNING:
        raise InvalidRequestError(
            f"Previous response with id '{response_id[:_MAX_SHOWN]}' can't be continued yet: its "
            f"status is '{status}'.",
            code="previous_response_not_completed",
            param="previous_response_id",
        )
    return items


async def _conversation(store: Store, owner: str, conversation_id: str) -> Sequence[Item]:
    items = await store.conversations.all_items(owner, conversation_id)
    if items is None:
        raise NotFoundError(
            f"Conversation with id '{conversation_id[:_MAX_SHOWN]}' not found.",
            param="conversation",
        )
    return items


async def _given(store: Store, owner: str, body: InputBody) -> Sequence[Item]:
    given = body.input
    if given is None:
        return ()
    if isinstance(given, str):
        return [InputMessage(role="user", content=given).resource()]
    references = [item.id for item in given if isinstance(item, ItemReference)]
    found = await _referred(store, owner, references) if references else {}
    return [
        found[item.id] if isinstance(item, ItemReference) else item.resource() for item in given
    ]


async def _referred(store: Store, owner: str, references: Sequence[str]) -> dict[str, Item]:
    """The outputs of stored responses that `references` name, each response read once."""
    found: dict[str, Item] = {}
    size = 0
    for response_id in {response_of(name): None for name in references}:
        kept = None
        if response_id is not None:
            kept = await store.responses.retrieve(owner, response_id)
        if kept is None:
            continue
        size += len(kept)
        if size > MAX_CHAIN_BYTES:
            raise InvalidRequestError(
                f"The items that are referred to are too large: at most {MAX_CHAIN_BYTES} bytes of "
                "responses can be.",
                code="invalid_value",
                param="input",
            )
        found |= {item["id"]: item for item in msgspec.json.decode(kept, type=_Kept).output}
    for name in references:
        if name not in found:
            raise NotFoundError(
                f"Item with id '{name}' not found. Items are not persisted when `store` is set to "
                "false. Try again with `store` set to true, or remove this item from your input.",
                param="input",
            )
    return found


def _require_new(context: Context) -> None:
    seen = {item["id"] for item in context.before}
    for item in context.given:
        if item["id"] in seen:
            raise duplicate_item(item["id"], "input")
        seen.add(item["id"])
