"""From items to the messages a model is shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from engine.base import ChatMessage, ToolCall
from gateway.errors import InvalidRequestError

Item = Mapping[str, Any]


def messages(items: Sequence[Item], instructions: str | None = None) -> list[ChatMessage]:
    """The conversation that `items` are, oldest first, `instructions` in front of it.

    What an assistant thought, said and called before anything was answered is one message. Raises
    InvalidRequestError (400) where calls and their outputs don't belong together, or nothing is
    there to answer.
    """
    found = [ChatMessage("developer", instructions)] if instructions is not None else []
    kept = _without_unfinished_calls(items)
    _check_calls(kept)
    reasoning = ""
    for item in kept:
        if item["type"] == "reasoning":
            reasoning = _reasoning(item)
            continue
        message, reasoning = _message(item, reasoning), ""
        if _continues(found, message):
            calls = found[-1].tool_calls + message.tool_calls
            found[-1] = structs.replace(found[-1], tool_calls=calls)
        else:
            found.append(message)
    if not found:
        raise InvalidRequestError(
            "Invalid 'input': there is nothing to answer. Expected text or at least one item.",
            code="empty_array",
            param="input",
        )
    return found


def later(items: Sequence[Item], dropped: int) -> list[Item]:
    """`items` without the first `dropped`, and without the outputs of calls that went with them."""
    kept: list[Item] = []
    called: set[str] = set()
    for item in items[dropped:]:
        if item["type"] == "function_call":
            called.add(item["call_id"])
        # A call after it may have the same id: an output answers what is in front of it.
        if item["type"] != "function_call_output" or item["call_id"] in called:
            kept.append(item)
    return kept


def most_dropped(items: Sequence[Item]) -> int:
    """The most that `later` can drop so that a message, or a call with its output, is left."""
    answered = _answered(items)
    return max(
        (
            place
            for place, item in enumerate(items)
            if item["type"] == "message"
            or (item["type"] == "function_call" and item["call_id"] in answered)
        ),
        default=0,
    )


def _answered(items: Sequence[Item]) -> set[str]:
    return {item["call_id"] for item in items if item["type"] == "function_call_output"}


def _without_unfinished_calls(items: Sequence[Item]) -> list[Item]:
    """A call that was cut short is none, unless it was answered all the same."""
    answered = _answered(items)
    return [
        item
        for item in items
        if item["type"] != "function_call"
        or item.get("status") != "incomplete"
        or item["call_id"] in answered
    ]


def _check_calls(items: Sequence[Item]) -> None:
    """Every call has an output after it, and nothing else has."""
    unanswered: dict[str, None] = {}
    called: set[str] = set()
    for item in items:
        if item["type"] == "function_call":
            called.add(item["call_id"])
            unanswered[item["call_id"]] = None
        elif item["type"] == "function_call_output":
            if item["call_id"] not in called:
                raise InvalidRequestError(
                    f"No tool call found for function call output with call_id {item['call_id']}.",
                    param="input",
                )
            unanswered.pop(item["call_id"], None)
    for call_id in unanswered:
        raise InvalidRequestError(
            f"No tool output found for function call {call_id}.", param="input"
        )


def _continues(found: Sequence[ChatMessage], message: ChatMessage) -> bool:
    """Whether `message` is but a call of the assistant's that the last message could have held."""
    return (
        bool(found)
        and found[-1].role == "assistant"
        and bool(message.tool_calls)
        and message.reasoning is None
    )


def _message(item: Item, reasoning: str) -> ChatMessage:
    if item["type"] == "function_call":
        call = ToolCall(item["call_id"], item["name"], item["arguments"])
        return ChatMessage("assistant", "", tool_calls=(call,), reasoning=reasoning or None)
    if item["type"] == "function_call_output":
        return ChatMessage("tool", _text(item["output"]), tool_call_id=item["call_id"])
    role = item["role"]
    thought = reasoning if role == "assistant" and reasoning else None
    return ChatMessage(role, _text(item["content"]), reasoning=thought)


def _text(content: str | Sequence[Item]) -> str:
    """Parts are joined by newlines."""
    if isinstance(content, str):
        return content
    return "\n".join(part["refusal"] if "refusal" in part else part["text"] for part in content)


def _reasoning(item: Item) -> str:
    """What was thought, or, where that is all there is, its summary."""
    return _text(item.get("content") or item.get("summary") or ())
