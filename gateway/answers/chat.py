"""`chat.completion` and `chat.completion.chunk`.

Source: the OpenAI API reference, "The chat completion object", "The chat completion chunk object".
`reasoning_content`, which it lacks, is where servers of open models put reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.base import Prompt, TokenDelta, TokenLogprob
from engine.reasoning import Reasoning
from gateway.answers import Heading, encode, error_event, usage_fields
from gateway.call import Usage
from gateway.errors import APIError
from gateway.message import (
    PLAIN,
    Form,
    Message,
    MessagePart,
    MessageReader,
    ToolCallBegun,
    assembled,
)

_OPENING = b'{"role":"assistant","content":"","refusal":null}'
_OPENING_WITHOUT_WORDS = b'{"role":"assistant","content":null,"refusal":null}'


class ChatAnswer:
    """Implements `answers.Answer`.

    `form` is how completions are to be read. `logprobs`: whether they are told. `kept`: whether
    what is streamed is also to be recorded.
    """

    def __init__(
        self,
        heading: Heading,
        *,
        form: Form = PLAIN,
        logprobs: bool = False,
        kept: bool = False,
    ) -> None:
        self._heading = heading
        # The beginning and the end of every chunk; an answer that isn't streamed needs neither.
        self._prefix = self._suffix = b""
        self._form = form
        self._logprobs = logprobs
        self._kept = kept
        self._simple = form.plain and not logprobs and not kept
        self._prompt = Prompt(())
        # By choice: what stands before and after the text in its events.
        self._content: dict[int, tuple[bytes, bytes]] = {}
        self._told: dict[int, _Told] = {}
        self._reasoning = 0

    @property
    def reasoning_tokens(self) -> int:
        return self._reasoning or sum(one.reader.reasoning_tokens for one in self._told.values())

    def begin(self, prompts: Sequence[Prompt]) -> None:
        (self._prompt,) = prompts

    def whole(self, choices: Sequence[TokenDelta], usage: Usage) -> bytes:
        if self._simple:
            messages = [Message(one.text, finish_reason=one.finish_reason) for one in choices]
        else:
            messages = [MessageReader(self._form, self._prompt).whole(one) for one in choices]
        told = [(one.index, m, one.logprobs) for one, m in zip(choices, messages, strict=True)]
        return self._whole(told, usage)

    def events(self, delta: TokenDelta) -> bytes:
        if not self._simple:
            return self._rich_events(delta)
        around, found = self._content.get(delta.index), b""
        if around is None:
            around = self._content[delta.index] = self._around(delta.index)
            found = self._event(delta.index, _OPENING)
        if delta.text:
            content = b"%b%b%b" % (around[0], encode(delta.text), around[1])
            found = found + content if found else content
        if delta.finish_reason is not None:
            found += self._event(delta.index, b"{}", encode(delta.finish_reason))
        return found

    def finished(self, usage: Usage) -> bytes:
        prefix = self._prefix or self._heading.prefix("chat.completion.chunk")
        return self._heading.closing(prefix, usage_fields(usage, self.reasoning_tokens))

    def failed(self, error: APIError) -> bytes:
        return error_event(error)

    def record(self, usage: Usage) -> bytes | None:
        if not self._kept:
            return None
        return self._whole(
            [(index, told.message(), told.logprobs) for index, told in sorted(self._told.items())],
            usage,
        )

    def _whole(
        self, choices: Sequence[tuple[int, Message, Sequence[TokenLogprob]]], usage: Usage
    ) -> bytes:
        self._reasoning = sum(message.reasoning_tokens for _, message, _ in choices)
        return encode(
            self._heading.fields("chat.completion")
            | {
                "choices": [
                    {
                        "index": index,
                        "message": message_fields(message),
                        "logprobs": _logprobs(logprobs) if self._logprobs else None,
                        "finish_reason": message.finish_reason,
                    }
                    for index, message, logprobs in choices
                ],
                "usage": usage_fields(usage, self._reasoning),
            }
        )

    def _rich_events(self, delta: TokenDelta) -> bytes:
        told = self._told.get(delta.index)
        if told is None:
            told = self._told[delta.index] = _Told(MessageReader(self._form, self._prompt))
        parts = told.reader.read(delta)
        told.untold += delta.logprobs
        found = b""
        if not told.opened and (parts or delta.finish_reason is not None or self._form.plain):
            told.opened = True
            words = not parts or isinstance(parts[0], str)
            found = self._event(delta.index, _OPENING if words else _OPENING_WITHOUT_WORDS)
        for part in parts:
            found += self._event(delta.index, encode(_part(part)), logprobs=self._take(told))
        if delta.finish_reason is not None:
            told.finish_reason = told.reader.finish_reason(delta)
            reason = encode(told.finish_reason)
            found += self._event(delta.index, b"{}", reason, logprobs=self._take(told))
        if self._kept:
            told.parts += parts
            told.logprobs += delta.logprobs
        return found

    def _take(self, told: _Told) -> bytes:
        """The log-probabilities since the last event, which may belong to text that was held."""
        if not self._logprobs or not told.untold:
            return b"null"
        untold, told.untold = told.untold, []
        return encode(_logprobs(untold))

    def _around(self, index: int) -> tuple[bytes, bytes]:
        before, _, after = self._event(index, b'{"content":\0}').partition(b"\0")
        return before, after

    def _event(
        self,
        index: int,
        delta: bytes,
        finish_reason: bytes = b"null",
        *,
        logprobs: bytes = b"null",
    ) -> bytes:
        if not self._prefix:
            self._prefix = self._heading.prefix("chat.completion.chunk")
            self._suffix = self._heading.suffix()
        return b'data: %b[{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]%b\n\n' % (
            self._prefix,
            index,
            delta,
            logprobs,
            finish_reason,
            self._suffix,
        )


class _Told:
    """What was told of one choice. `parts` and `logprobs` are those of all its events, where they
    are kept; `untold` waits for the next one."""

    __slots__ = ("finish_reason", "logprobs", "opened", "parts", "reader", "untold")

    def __init__(self, reader: MessageReader) -> None:
        self.reader = reader
        self.opened = False
        self.untold: list[TokenLogprob] = []
        self.parts: list[MessagePart] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: Any = None

    def message(self) -> Message:
        return assembled(self.parts, self.finish_reason, self.reader.reasoning_tokens)


def message_fields(message: Message) -> dict[str, Any]:
    """The `message` of a choice."""
    found: dict[str, Any] = {
        "role": "assistant",
        "content": message.content,
        "refusal": None,
        "annotations": [],
    }
    if message.reasoning:
        found["reasoning_content"] = message.reasoning
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return found


def _part(part: MessagePart) -> Mapping[str, Any]:
    """The `delta` of a chunk."""
    if isinstance(part, str):
        return {"content": part}
    if isinstance(part, Reasoning):
        return {"reasoning_content": part.text}
    if isinstance(part, ToolCallBegun):
        call: dict[str, Any] = {
            "index": part.index,
            "id": part.id,
            "type": "function",
            "function": {"name": part.name, "arguments": ""},
        }
    else:
        call = {"index": part.index, "function": {"arguments": part.text}}
    return {"tool_calls": [call]}


def _logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    entries = [
        {**_entry(one), "top_logprobs": [_entry(other) for other in one.top]} for one in logprobs
    ]
    return {"content": entries, "refusal": None}


def _entry(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.bytes)}
