"""The messages of a Messages request, and the content blocks they are made of.

Source: the Anthropic API reference, "Create a Message", `messages` and `system`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from gateway.protocol.parse import WireModel

MAX_MESSAGES = 10_000
MAX_BLOCKS = 10_000

# Accepted whatever it holds: it changes nothing here.
Ignored: TypeAlias = dict[str, Any] | None
BlockId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class CacheableBlock(WireModel):
    """`cache_control` marks what to cache: the prefix cache finds that out by itself."""

    cache_control: Ignored = None


class TextBlock(CacheableBlock):
    """A piece of text."""

    type: Literal["text"]
    text: str
    citations: list[Any] | None = None


class ToolUseBlock(CacheableBlock):
    """A tool the assistant called."""

    type: Literal["tool_use"]
    id: BlockId
    name: BlockId
    input: dict[str, Any]
    caller: Ignored = None
    toolset_name: None = None


class ToolResultBlock(CacheableBlock):
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: BlockId
    content: str | Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS, fail_fast=True)] = ""
    is_error: bool | None = None
    toolset_name: None = None


class ThinkingBlock(WireModel):
    """What the assistant thought; its signature is not asked for."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(WireModel):
    """What another server's assistant thought, for that server only."""

    type: Literal["redacted_thinking"]
    data: str


TextBlocks = Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS, fail_fast=True)]
UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock, Field(discriminator="type")
]


class UserMessage(WireModel):
    """What the user says, and what tools answered."""

    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(max_length=MAX_BLOCKS, fail_fast=True)]


class AssistantMessage(WireModel):
    """What the assistant said before."""

    role: Literal["assistant"]
    content: str | Annotated[list[AssistantBlock], Field(max_length=MAX_BLOCKS, fail_fast=True)]


class SystemMessage(WireModel):
    """An instruction in the middle of a conversation; one with `clear_at` `next_user_message` is
    shown only until the user speaks again."""

    role: Literal["system"]
    content: str | TextBlocks
    clear_at: Literal["next_user_message", "never"] | None = None


WireMessage = Annotated[UserMessage | AssistantMessage | SystemMessage, Field(discriminator="role")]
WireMessages = Annotated[
    list[WireMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]
