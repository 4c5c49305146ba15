"""Stored chat completions. Source: the OpenAI API reference, "Chat completions": list, update, list
messages, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from gateway.protocol.lists import MAX_ID, ListQuery
from gateway.protocol.parse import WireModel
from gateway.protocol.sampling import Metadata


class CompletionsQuery(ListQuery):
    """Which stored completions: those of `model`, with all of `metadata`."""

    model: Annotated[str, StringConstraints(max_length=MAX_ID)] | None = None
    metadata: Metadata = Field(default={}, description="`metadata[key]=value`")


class UpdateCompletion(WireModel):
    """The body of an update: metadata that replaces what there is; null is none."""

    metadata: Metadata | None


def stored_message(message_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """A request's message as it is listed: content that came in parts stands apart."""
    content = message.get("content")
    in_parts = isinstance(content, list)
    return {
        "id": message_id,
        **message,
        "content": None if in_parts else content,
        "name": message.get("name"),
        "content_parts": content if in_parts else None,
    }


def completion_deleted(completion_id: str) -> dict[str, Any]:
    return {"object": "chat.completion.deleted", "id": completion_id, "deleted": True}
