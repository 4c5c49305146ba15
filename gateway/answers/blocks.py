"""The content blocks of an assistant's turn in Anthropic's API: piece by piece, and whole.

Source: the Anthropic API reference, "Create a Message", `content`; "Streaming Messages".
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
from pydantic_core import from_json

from engine.reasoning import Reasoning
from gateway.message import MessagePart, ToolCallArguments, ToolCallBegun
from gateway.protocol.history import TOOL_ID

_CALL_ID: Final = "call_"


class Block(Protocol):
    """One content block, which takes parts of a message as long as they are its own."""

    def opening(self) -> dict[str, Any]:
        """The block before its first piece."""
        ...

    def takes(self, part: MessagePart) -> bool: ...

    def delta(self, part: MessagePart) -> dict[str, Any] | None:
        """What the block gains with `part`; each is given once, in order."""
        ...

    def closing(self) -> dict[str, Any] | None:
        """What the block gains at its end."""
        ...

    def whole(self, parts: Sequence[MessagePart]) -> dict[str, Any]:
        """The block of all its parts."""
        ...


def block_of(first: MessagePart, *, thinking: bool) -> Block:
    """The block that begins with `first`; `thinking`: whether the words of thinking are told."""
    if isinstance(first, str):
        return TextBlock()
    if isinstance(first, Reasoning):
        return ThinkingBlock(told=thinking)
    if isinstance(first, ToolCallBegun):
        return ToolUseBlock(first)
    raise ValueError("arguments belong to a call that has begun")


class TextBlock:
    """Words."""

    def opening(self) -> dict[str, Any]:
        return {"type": "text", "text": ""}

    def takes(self, part: MessagePart) -> bool:
        return isinstance(part, str)

    def delta(self, part: MessagePart) -> dict[str, Any] | None:
        return {"type": "text_delta", "text": part}

    def closing(self) -> dict[str, Any] | None:
        return None

    def whole(self, parts: Sequence[MessagePart]) -> dict[str, Any]:
        return {"type": "text", "text": "".join(part for part in parts if isinstance(part, str))}


class ThinkingBlock:
    """Thoughts. The signature is their digest: clients want one, and nobody here asks for it."""

    def __init__(self, *, told: bool) -> None:
        self._told = told
        self._digest = hashlib.sha256()

    def opening(self) -> dict[str, Any]:
        return {"type": "thinking", "thinking": "", "signature": ""}

    def takes(self, part: MessagePart) -> bool:
        return isinstance(part, Reasoning)

    def delta(self, part: MessagePart) -> dict[str, Any] | None:
        text = part.text if isinstance(part, Reasoning) else ""
        self._digest.update(text.encode(errors="surrogatepass"))
        return {"type": "thinking_delta", "thinking": text} if self._told else None

    def closing(self) -> dict[str, Any] | None:
        return {"type": "signature_delta", "signature": self._signature()}

    def whole(self, parts: Sequence[MessagePart]) -> dict[str, Any]:
        deltas = [self.delta(part) for part in parts]
        thinking = "".join(delta["thinking"] for delta in deltas if delta is not None)
        return {"type": "thinking", "thinking": thinking, "signature": self._signature()}

    def _signature(self) -> str:
        return base64.b64encode(self._digest.digest()).decode()


class ToolUseBlock:
    """A call of a tool."""

    def __init__(self, call: ToolCallBegun) -> None:
        self._id = TOOL_ID + call.id.removeprefix(_CALL_ID)
        self._name = call.name

    def opening(self) -> dict[str, Any]:
        return {"type": "tool_use", "id": self._id, "name": self._name, "input": {}}

    def takes(self, part: MessagePart) -> bool:
        return isinstance(part, ToolCallArguments)

    def delta(self, part: MessagePart) -> dict[str, Any] | None:
        if not isinstance(part, ToolCallArguments):
            return None
        return {"type": "input_json_delta", "partial_json": part.text}

    def closing(self) -> dict[str, Any] | None:
        return None

    def whole(self, parts: Sequence[MessagePart]) -> dict[str, Any]:
        text = "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
        return self.opening() | {"input": msgspec.Raw(_object(text))}


def _object(arguments: str) -> bytes:
    """The JSON object that `arguments` is or, where it was cut off, as much of it as is certain."""
    for partial in (False, True):
        try:
            found = from_json(arguments, allow_inf_nan=False, allow_partial=partial)
        except ValueError:
            continue
        if isinstance(found, dict):
            return json.dumps(found).encode() if partial else arguments.encode()
    return b"{}"
