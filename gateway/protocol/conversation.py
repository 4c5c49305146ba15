"""The messages of a chat completion request.

Source: the OpenAI API reference, "Create chat completion", `messages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from engine.base import ChatMessage, InvalidPromptError
from gateway.protocol.parse import Unsupported, WireModel
from gateway.protocol.tools import MAX_CALLS, WireToolCall

Name = Annotated[str, StringConstraints(max_length=64)]


class TextPart(WireModel):
    """A piece of text content. `cache_control` is a hint for caches that have to be told what to
    keep, which clients of several providers send along; ours needs none."""

    type: Literal["text"]
    text: str
    cache_control: dict[str, Any] | None = None


class RefusalPart(WireModel):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


TextContent = str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
AssistantContent = (
    str | Annotated[list[TextPart | RefusalPart], Field(min_length=1, fail_fast=True)]
)


class InstructionMessage(WireModel):
    """What the developer says; `developer` is what newer models call `system`."""

    role: Literal["system", "developer"]
    content: TextContent
    name: Name | None = None

    def flattened(self) -> ChatMessage:
        return ChatMessage(self.role, _text(self.content), self.name)


class UserMessage(WireModel):
    """What the user says."""

    role: Literal["user"]
    content: TextContent
    name: Name | None = None

    def flattened(self) -> ChatMessage:
        return ChatMessage(self.role, _text(self.content), self.name)


class AssistantMessage(WireModel):
    """What the model said before; it may hold nothing but tool calls or a refusal.

    `reasoning_content` (or `reasoning`) is what it thought, for templates that have a place for it.
    """

    role: Literal["assistant"]
    content: AssistantContent | None = None
    name: Name | None = None
    refusal: str | None = None
    annotations: Annotated[list[object], Field(max_length=128)] | None = None
    tool_calls: (
        Annotated[list[WireToolCall], Field(max_length=MAX_CALLS, fail_fast=True)] | None
    ) = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: Unsupported = None
    audio: Unsupported = None

    def flattened(self) -> ChatMessage:
        text = _text(self.content) if self.content is not None else self.refusal or ""
        return ChatMessage(
            self.role,
            text,
            self.name,
            tool_calls=tuple(call.call() for call in self.tool_calls or ()),
            reasoning=self.reasoning_content or self.reasoning,
        )


class ToolMessage(WireModel):
    """What a tool answered. `name` is the function's: the reference lacks it, but OpenAI's own
    examples send it."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    name: Name | None = None

    def flattened(self) -> ChatMessage:
        return ChatMessage(
            self.role, _text(self.content), self.name, tool_call_id=self.tool_call_id
        )


Message = Annotated[
    InstructionMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]
Messages = Annotated[list[Message], Field(min_length=1, max_length=4096, fail_fast=True)]


def flattened(messages: Sequence[Message]) -> list[ChatMessage]:
    """The messages as the engine renders them. Raises InvalidPromptError where one says nothing, or
    calls and the answers of tools don't belong together."""
    _check_calls(messages)
    return [message.flattened() for message in messages]


def _text(content: str | Sequence[TextPart | RefusalPart]) -> str:
    """Parts are joined by newlines."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _check_calls(messages: Sequence[Message]) -> None:
    """Every call is answered right after the message that made it, and nothing else is answered."""
    open_calls: set[str] = set()
    answerable: set[str] = set()
    for place, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in answerable:
                raise InvalidPromptError(
                    "Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceding message with 'tool_calls' that has their 'tool_call_id'.",
                    f"messages[{place}].role",
                )
            open_calls.discard(message.tool_call_id)
            continue
        _require_answers(open_calls, place)
        open_calls, answerable = set(), set()
        if isinstance(message, AssistantMessage):
            answerable = {call.id for call in message.tool_calls or ()}
            open_calls = set(answerable)
            if message.content is None and message.refusal is None and not answerable:
                raise InvalidPromptError(
                    "Invalid value for 'content': expected a string or parts, got null; only a "
                    "message with 'tool_calls' or 'refusal' can be without.",
                    f"messages[{place}].content",
                )
    _require_answers(open_calls, len(messages))


def _require_answers(open_calls: set[str], place: int) -> None:
    if open_calls:
        raise InvalidPromptError(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. These have no response: "
            f"{', '.join(sorted(open_calls))[:256]}.",
            f"messages[{place - 1}].tool_calls",
        )
