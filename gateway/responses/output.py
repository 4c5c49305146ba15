"""What a response says, as items, and the events that tell how they grow.

Pure; whole answers and streams are built by the same `Output`, so they say the same. Source: the
OpenAI API reference, "The response object" and "Streaming events".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from engine.base import TokenLogprob
from engine.reasoning import Reasoning
from gateway.message import MessagePart, ToolCallArguments, ToolCallBegun
from gateway.responses.ids import item_id

Event = dict[str, Any]
"""One event of a stream, its `sequence_number` still to come."""

ItemStatus = Literal["completed", "incomplete"]

_TEXT_EVENTS: Final = {
    "message": "response.output_text",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}
_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class Output:
    """The items of one response. Only the last one may be open, which is to say still growing.

    `logprobs`: whether the text's tokens are told with their log-probabilities.
    """

    def __init__(self, response_id: str, *, logprobs: bool = False) -> None:
        self.items: list[dict[str, Any]] = []
        self._response_id = response_id
        self._open: dict[str, Any] | None = None
        self._text: list[str] = []
        self._told: list[dict[str, Any]] = []
        self._tokens = _Tokens() if logprobs else None

    def add(
        self, parts: Sequence[MessagePart], logprobs: Sequence[TokenLogprob] = ()
    ) -> list[Event]:
        """Go on with `parts`; `logprobs` are those of the tokens they were read from."""
        if self._tokens is not None:
            self._tokens.feed(logprobs)
        events: list[Event] = []
        for part in parts:
            events += self._add(part)
        return events

    def say(self, text: str) -> None:
        """Go on with the text of the open message, which somebody else tells."""
        self._text.append(text)

    def finish(self, status: ItemStatus) -> list[Event]:
        """The model has ended, or was cut short. If it said nothing, that is an empty message."""
        events = [] if self.items else self._begin("message")
        return events + self._close(status)

    def so_far(self) -> list[dict[str, Any]]:
        """The items, the open one as far as it has come."""
        if self._open is None:
            return self.items
        return [*self.items[:-1], _completed(self._open, "".join(self._text), self._told, None)]

    def _add(self, part: MessagePart) -> list[Event]:
        if isinstance(part, ToolCallBegun):
            return self._begin("function_call", part)
        if isinstance(part, ToolCallArguments):
            return [self._grow(part.text)]
        kind, text = ("reasoning", part.text) if isinstance(part, Reasoning) else ("message", part)
        begun = [] if self._kind() == kind else self._begin(kind)
        return [*begun, self._grow(text)]

    def _kind(self) -> str | None:
        return self._open["type"] if self._open is not None else None

    def _begin(self, kind: str, call: ToolCallBegun | None = None) -> list[Event]:
        events = self._close("completed")
        place = len(self.items)
        new: dict[str, Any] = {
            "id": item_id(_PREFIXES[kind], self._response_id, place),
            "type": kind,
            "status": "in_progress",
        }
        if call is not None:
            new |= {"arguments": "", "call_id": call.id, "name": call.name}
        elif kind == "message":
            new |= {"content": [], "role": "assistant"}
        else:
            new |= {"summary": [], "content": []}
        self._open = new
        self._text, self._told = [], []
        self.items.append(new)
        events.append({"type": "response.output_item.added", "output_index": place, "item": new})
        if call is None:
            added = self._at("response.content_part.added", 0)
            events.append({**added, "part": _part(kind, "", [])})
        return events

    def _grow(self, text: str) -> Event:
        kind = self._kind() or "message"
        self._text.append(text)
        event = self._at(_TEXT_EVENTS[kind] + ".delta", None if kind == "function_call" else 0)
        event["delta"] = text
        told = self._tokens.of(text) if self._tokens is not None and kind != "function_call" else []
        if kind == "message":
            self._told += told
            event["logprobs"] = told
        return event

    def _close(self, status: ItemStatus) -> list[Event]:
        if self._open is None:
            return []
        kind, text, told = self._open["type"], "".join(self._text), self._told
        done = self._at(_TEXT_EVENTS[kind] + ".done", None if kind == "function_call" else 0)
        item = _completed(self._open, text, told, status)
        place = len(self.items) - 1
        ended: Event = {
            "type": "response.output_item.done",
            "output_index": place,
            "item": item,
        }
        if kind == "function_call":
            events = [{**done, "arguments": text}, ended]
        else:
            if kind == "message":
                done["logprobs"] = told
            part = {**self._at("response.content_part.done", 0), "part": item["content"][0]}
            events = [{**done, "text": text}, part, ended]
        self.items[place] = item
        self._open = None
        return events

    def _at(self, event: str, content_index: int | None) -> Event:
        """An event about the open item, or a content part of it."""
        place = len(self.items) - 1
        found = {"type": event, "item_id": self.items[place]["id"], "output_index": place}
        return found if content_index is None else {**found, "content_index": content_index}


def _completed(
    item: dict[str, Any], text: str, logprobs: list[dict[str, Any]], status: ItemStatus | None
) -> dict[str, Any]:
    """`item` with all it says; `status` None: it is still growing."""
    found = {**item, "status": status or "incomplete"}
    if item["type"] == "function_call":
        return {**found, "arguments": text}
    return {**found, "content": [_part(item["type"], text, logprobs)]}


def _part(kind: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "annotations": [], "logprobs": logprobs, "text": text}


class _Tokens:
    """Finds the tokens a piece of text is made of: some of a completion's text, tags for instance,
    is told as nothing, and some later than it came."""

    def __init__(self) -> None:
        self._waiting: list[TokenLogprob] = []

    def feed(self, tokens: Sequence[TokenLogprob]) -> None:
        self._waiting += tokens

    def of(self, text: str) -> list[dict[str, Any]]:
        """The tokens that begin within `text`, which comes in the order of the completion."""
        spelled = b"".join(token.bytes for token in self._waiting)
        wanted = text.encode("utf-8", "replace")
        begins = max(spelled.find(wanted), 0)
        ends = begins + len(wanted)
        found, at, taken = [], 0, 0
        for token in self._waiting:
            if at >= ends:
                break
            if at >= begins:
                found.append(_logprob(token))
            at += len(token.bytes)
            taken += 1
        del self._waiting[:taken]
        return found


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.bytes), "logprob": token.logprob}
