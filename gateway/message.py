"""From a completion's text to an assistant's message: its reasoning, its words, its tool calls.

Whole answers and streams are read by the same `MessageReader`, so they say the same.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec

from engine.base import Prompt, TokenDelta, ToolCall
from engine.reasoning import Reasoning, ReasoningSplitter, ReasoningTags
from engine.tools import CallArguments, CallBegun, ToolFinder

FinishReason = Literal["stop", "length", "tool_calls"]

_ALPHABET: Final = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ToolCallBegun:
    """The `index`-th tool call of the message begins; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """The next piece of the `index`-th tool call's arguments, JSON text."""

    index: int
    text: str


MessagePart: TypeAlias = str | Reasoning | ToolCallBegun | ToolCallArguments
"""Content is a plain string."""


@dataclass(frozen=True, slots=True)
class Form:
    """How one call's completions are to be read. `short_ids`: the model's template takes only ids
    of nine characters for tool calls."""

    finder: Callable[[], ToolFinder] | None = None
    tags: ReasoningTags | None = None
    short_ids: bool = False

    @property
    def plain(self) -> bool:
        """Whether the text is the content, as it is."""
        return self.finder is None and self.tags is None


PLAIN: Final = Form()


class Message(msgspec.Struct, frozen=True):
    """An assistant's whole message. `content` is None where there are only tool calls."""

    content: str | None
    reasoning: str = ""
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: FinishReason | None = None
    reasoning_tokens: int = 0


class MessageReader:
    """Reads one choice. `prompt` is what it continues: that may have opened the reasoning."""

    __slots__ = ("_calls", "_finder", "_form", "_splitter")

    def __init__(self, form: Form, prompt: Prompt) -> None:
        self._form = form
        self._finder = form.finder() if form.finder is not None else None
        self._splitter: ReasoningSplitter | None = None
        if form.tags is not None:
            begun = (prompt.text or "").rstrip().endswith(form.tags.start)
            self._splitter = ReasoningSplitter(form.tags, begun=begun)
        self._calls = 0

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens the reasoning took so far."""
        return self._splitter.tokens if self._splitter is not None else 0

    def read(self, delta: TokenDelta) -> Sequence[MessagePart]:
        """What the message gains with `delta`."""
        if self._splitter is None:
            parts = self._content(delta.text)
        else:
            self._splitter.note(delta.token_ids)
            parts = self._split(self._splitter.push(delta.text))
        if delta.finish_reason is None:
            return parts
        if self._splitter is not None:
            parts += self._split(self._splitter.finish())
        if self._finder is not None:
            parts += self._found(self._finder.finish())
        return parts

    def finish_reason(self, delta: TokenDelta) -> FinishReason | None:
        """Why the message ended with `delta`: with tool calls, if it is whole and has some."""
        if delta.finish_reason == "stop" and self._calls:
            return "tool_calls"
        return delta.finish_reason

    def whole(self, delta: TokenDelta) -> Message:
        """The message that a whole choice is."""
        return assembled(self.read(delta), self.finish_reason(delta), self.reasoning_tokens)

    def _split(self, parts: Sequence[str | Reasoning]) -> list[MessagePart]:
        found: list[MessagePart] = []
        for part in parts:
            found += self._content(part) if isinstance(part, str) else [part]
        return found

    def _content(self, text: str) -> list[MessagePart]:
        if self._finder is not None:
            return self._found(self._finder.push(text))
        return [text] if text else []

    def _found(self, pieces: Sequence[str | CallBegun | CallArguments]) -> list[MessagePart]:
        found: list[MessagePart] = []
        for piece in pieces:
            if isinstance(piece, str):
                found.append(piece)
            elif isinstance(piece, CallBegun):
                self._calls += 1
                found.append(ToolCallBegun(self._calls - 1, self._new_id(), piece.name))
            else:
                found.append(ToolCallArguments(self._calls - 1, piece.text))
        return found

    def _new_id(self) -> str:
        if self._form.short_ids:
            return "".join(secrets.choice(_ALPHABET) for _ in range(9))
        return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


def assembled(
    parts: Sequence[MessagePart], finish_reason: FinishReason | None, reasoning_tokens: int
) -> Message:
    """The message that all its parts make."""
    content, reasoning = [], []
    calls: list[tuple[ToolCallBegun, list[str]]] = []
    for part in parts:
        if isinstance(part, str):
            content.append(part)
        elif isinstance(part, Reasoning):
            reasoning.append(part.text)
        elif isinstance(part, ToolCallBegun):
            calls.append((part, []))
        else:
            calls[part.index][1].append(part.text)
    return Message(
        content="".join(content) if content or not calls else None,
        reasoning="".join(reasoning),
        tool_calls=[ToolCall(call.id, call.name, "".join(text)) for call, text in calls],
        finish_reason=finish_reason,
        reasoning_tokens=reasoning_tokens,
    )
