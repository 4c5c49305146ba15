"""Conversations. Source: the OpenAI API reference, "Conversations"."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.protocol.items import InputItem
from gateway.protocol.lists import ListQuery
from gateway.protocol.parse import WireModel
from gateway.protocol.sampling import Metadata

MAX_NEW_ITEMS = 20

NewItems = Annotated[list[InputItem], Field(max_length=MAX_NEW_ITEMS, fail_fast=True)]
# What is of other kinds of items than there are here changes nothing.
Includable = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class CreateConversation(WireModel):
    """The body that makes a conversation; it may be empty."""

    items: NewItems | None = None
    metadata: Metadata | None = None


class UpdateConversation(WireModel):
    """Metadata that replaces what there is; null is none."""

    metadata: Metadata | None


class CreateItems(WireModel):
    """Items to append."""

    items: NewItems


class ItemQuery(WireModel):
    """What is to be told of an item besides: all there is, is told anyway."""

    include: list[Includable] = Field(default=[], fail_fast=True)


class ItemsQuery(ListQuery):
    """Items, the newest first where nothing else is asked."""

    order: Literal["asc", "desc"] = "desc"
    include: list[Includable] = Field(default=[], fail_fast=True)


def conversation(conversation_id: str, created: int, metadata: dict[str, str]) -> dict[str, Any]:
    return {
        "id": conversation_id,
        "object": "conversation",
        "created_at": created,
        "metadata": metadata,
    }


def conversation_deleted(conversation_id: str) -> dict[str, Any]:
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
