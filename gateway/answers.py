"""The JSON of answers: whole, and as the chunks of a stream.

A stream's fixed parts are encoded once; per delta only the text is. Source: the OpenAI API
reference, "The chat completion chunk object" and "The completion object".
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from engine.base import TokenDelta
from gateway.pipeline import Usage

_encode = msgspec.json.encode


class Answer(Protocol):
    """Writes one call's answer in the format of its endpoint."""

    def whole(self, choices: Iterable[TokenDelta], usage: Usage) -> bytes:
        """The JSON object of an answer that isn't streamed; `choices` are whole."""
        ...

    def events(self, delta: TokenDelta) -> bytes:
        """The server-sent events that tell a delta; none where it has nothing to tell yet."""
        ...

    def usage_chunk(self, usage: Usage) -> bytes:
        """The extra last chunk of `stream_options.include_usage`."""
        ...


@dataclass(frozen=True, slots=True)
class Heading:
    """What every chunk and answer of one call repeats."""

    id: str
    model: str
    fingerprint: str
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def prefix(self, kind: str) -> bytes:
        """The chunk up to the value of its `choices`."""
        return _encode(self.fields(kind))[:-1] + b',"choices":'

    def suffix(self) -> bytes:
        """The end of a chunk that isn't the usage chunk."""
        return b',"usage":null}' if self.include_usage else b"}"


class ChatAnswer:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._prefix = heading.prefix("chat.completion.chunk")
        self._suffix = heading.suffix()
        # By choice: what stands before and after the text in its events.
        self._content: dict[int, tuple[bytes, bytes]] = {}

    def whole(self, choices: Iterable[TokenDelta], usage: Usage) -> bytes:
        return _encode(
            self._heading.fields("chat.completion")
            | {
                "choices": [_chat_choice(choice) for choice in choices],
                "usage": _usage(usage),
            }
        )

    def events(self, delta: TokenDelta) -> bytes:
        around, found = self._content.get(delta.index), b""
        if around is None:
            around = self._content[delta.index] = self._around(delta.index)
            opening = b'{"role":"assistant","content":"","refusal":null}'
            found = self._event(delta.index, opening, b"null")
        if delta.text:
            content = b"%b%b%b" % (around[0], _encode(delta.text), around[1])
            found = found + content if found else content
        if delta.finish_reason is not None:
            found += self._event(delta.index, b"{}", _encode(delta.finish_reason))
        return found

    def usage_chunk(self, usage: Usage) -> bytes:
        return b'%b[],"usage":%b}' % (self._prefix, _encode(_usage(usage)))

    def _around(self, index: int) -> tuple[bytes, bytes]:
        before, _, after = self._event(index, b'{"content":\0}', b"null").partition(b"\0")
        return before, after

    def _event(self, index: int, delta: bytes, finish_reason: bytes) -> bytes:
        return b'data: %b[{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}]%b\n\n' % (
            self._prefix,
            index,
            delta,
            finish_reason,
            self._suffix,
        )


class TextAnswer:
    """`text_completion`, whole and in chunks."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._prefix = heading.prefix("text_completion")
        self._suffix = heading.suffix()

    def whole(self, choices: Iterable[TokenDelta], usage: Usage) -> bytes:
        return _encode(
            self._heading.fields("text_completion")
            | {
                "choices": [_text_choice(choice) for choice in choices],
                "usage": _usage(usage),
            }
        )

    def events(self, delta: TokenDelta) -> bytes:
        if not delta.text and delta.finish_reason is None:
            return b""
        event = b'data: %b[{"text":%b,"index":%d,"logprobs":null,"finish_reason":%b}]%b\n\n'
        return event % (
            self._prefix,
            _encode(delta.text),
            delta.index,
            _encode(delta.finish_reason),
            self._suffix,
        )

    def usage_chunk(self, usage: Usage) -> bytes:
        return b'%b[],"usage":%b}' % (self._prefix, _encode(_usage(usage)))


def _chat_choice(choice: TokenDelta) -> dict[str, Any]:
    return {
        "index": choice.index,
        "message": {
            "role": "assistant",
            "content": choice.text,
            "refusal": None,
            "annotations": [],
        },
        "logprobs": None,
        "finish_reason": choice.finish_reason,
    }


def _text_choice(choice: TokenDelta) -> dict[str, Any]:
    return {
        "text": choice.text,
        "index": choice.index,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
