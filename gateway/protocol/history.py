"""From the messages of a Messages request to what a chat template renders.

Consecutive messages of one role are one turn. What tools answered comes in the user's turn, and
becomes messages of its own in front of the user's words.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from engine.base import ChatMessage, InvalidPromptError, ToolCall
from gateway.protocol.blocks import (
    AssistantBlock,
    AssistantMessage,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserBlock,
    UserMessage,
    WireMessage,
)

TOOL_ID: Final = "toolu_"
# A coding agent's first system block counts its requests: in front of everything it would leave
# the prefix cache nothing to find.
_ATTRIBUTION: Final = "x-anthropic-billing-header"


def history(
    system: str | Sequence[TextBlock] | None, messages: Sequence[WireMessage]
) -> list[ChatMessage]:
    """Raises InvalidPromptError where calls and the answers of tools don't belong together."""
    found = [ChatMessage("system", text)] if (text := _instructions(system or "")) else []
    calls: set[str] = set()
    spoke = max((at for at, one in enumerate(messages) if isinstance(one, UserMessage)), default=0)
    for _, group in groupby(enumerate(messages), key=lambda pair: pair[1].role):
        turn = list(group)
        place, first = turn[0]
        if isinstance(first, AssistantMessage):
            _require_answers(calls, set(), place)
            said = _blocks(message for _, message in turn if isinstance(message, AssistantMessage))
            found.append(_said(said))
            calls = {block.id for block in said if isinstance(block, ToolUseBlock)}
        elif isinstance(first, UserMessage):
            asked = _blocks(message for _, message in turn if isinstance(message, UserMessage))
            results = [block for block in asked if isinstance(block, ToolResultBlock)]
            _require_calls(results, calls, place)
            _require_answers(calls, {result.tool_use_id for result in results}, place)
            calls = set()
            found += [_answered(result) for result in results]
            texts = [block for block in asked if isinstance(block, TextBlock)]
            if texts or not results:
                found.append(ChatMessage("user", _joined(texts)))
        else:
            found += _told(turn, spoke)
    return found


def _instructions(system: str | Sequence[TextBlock]) -> str:
    blocks = [TextBlock(type="text", text=system)] if isinstance(system, str) else system
    return _joined(block for block in blocks if not block.text.startswith(_ATTRIBUTION))


def _blocks(
    messages: Iterable[AssistantMessage] | Iterable[UserMessage],
) -> list[AssistantBlock | UserBlock]:
    found: list[AssistantBlock | UserBlock] = []
    for message in messages:
        if isinstance(message.content, str):
            found.append(TextBlock(type="text", text=message.content))
        else:
            found += message.content
    return found


def _said(blocks: Sequence[AssistantBlock | UserBlock]) -> ChatMessage:
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    return ChatMessage(
        "assistant",
        _joined(block for block in blocks if isinstance(block, TextBlock)),
        tool_calls=tuple(_call(block) for block in blocks if isinstance(block, ToolUseBlock)),
        reasoning="\n".join(filter(None, thoughts)) or None,
    )


def _call(block: ToolUseBlock) -> ToolCall:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return ToolCall(block.id.removeprefix(TOOL_ID), block.name, arguments)


def _answered(result: ToolResultBlock) -> ChatMessage:
    content = result.content
    text = content if isinstance(content, str) else _joined(content)
    if result.is_error:  # templates know no other way to say so
        text = f"Error: {text}" if text else "Error"
    return ChatMessage("tool", text, tool_call_id=result.tool_use_id.removeprefix(TOOL_ID))


def _told(turn: Sequence[tuple[int, WireMessage]], spoke: int) -> list[ChatMessage]:
    """Instructions in between: a developer's, which the engine puts where its template has room.

    The user spoke last in the message at `spoke`.
    """
    messages = [
        message
        for place, message in turn
        if isinstance(message, SystemMessage)
        and not (message.clear_at == "next_user_message" and place < spoke)
    ]
    texts = filter(None, [_instructions(message.content) for message in messages])
    return [ChatMessage("developer", text) for text in texts]


def _joined(blocks: Iterable[TextBlock]) -> str:
    return "\n".join(block.text for block in blocks)


def _require_calls(results: Sequence[ToolResultBlock], calls: set[str], place: int) -> None:
    ids = Counter(result.tool_use_id for result in results)
    twice = [one for one, count in ids.items() if count > 1]
    if twice:
        raise InvalidPromptError(
            f"messages.{place}: each 'tool_use' must have a single result. Found multiple "
            f"'tool_result' blocks with id: {', '.join(twice)[:256]}.",
            f"messages[{place}].content",
        )
    unknown = [one for one in ids if one not in calls]
    if unknown:
        raise InvalidPromptError(
            f"messages.{place}: unexpected 'tool_use_id' found in 'tool_result' blocks: "
            f"{', '.join(unknown)[:256]}. Each 'tool_result' block must have a corresponding "
            "'tool_use' block in the previous message.",
            f"messages[{place}].content",
        )


def _require_answers(calls: set[str], answered: set[str], place: int) -> None:
    missing = sorted(calls - answered)
    if missing:
        raise InvalidPromptError(
            f"messages.{place}: 'tool_use' ids were found without 'tool_result' blocks "
            f"immediately after: {', '.join(missing)[:256]}. Each 'tool_use' block must have a "
            "corresponding 'tool_result' block in the next message.",
            f"messages[{place}].content",
        )
