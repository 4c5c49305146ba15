"""The JSON of answers: whole, and as the events of a stream. One file per endpoint family.

A stream's fixed parts are encoded once; per delta only the text is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from engine.base import Prompt, TokenDelta
from gateway.call import Usage
from gateway.errors import APIError

encode = msgspec.json.encode

DONE = b"data: [DONE]\n\n"


class Answer(Protocol):
    """Writes one call's answer in the format of its endpoint."""

    @property
    def reasoning_tokens(self) -> int:
        """How many of the tokens told so far were reasoning."""
        ...

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """What is answered, as it was rendered. Once, before anything else."""
        ...

    def whole(self, choices: Sequence[TokenDelta], usage: Usage) -> bytes:
        """The JSON object of an answer that isn't streamed; `choices` are whole, in order."""
        ...

    def events(self, delta: TokenDelta) -> bytes:
        """The server-sent events that tell a delta; none where it has nothing to tell yet."""
        ...

    def finished(self, usage: Usage) -> bytes:
        """The last events of a stream that went well."""
        ...

    def failed(self, error: APIError) -> bytes:
        """The last event of a stream that didn't."""
        ...

    def record(self, usage: Usage) -> bytes | None:
        """What is to be kept of a stream that went well, as `whole` writes it; None: nothing."""
        ...


class Heading(msgspec.Struct, frozen=True):
    """What every chunk and answer of one call repeats. `more` are further fields."""

    id: str
    model: str
    fingerprint: str
    include_usage: bool = False
    more: Mapping[str, Any] = msgspec.field(default_factory=dict)
    created: int = msgspec.field(default_factory=lambda: int(time.time()))

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            **self.more,
        }

    def prefix(self, kind: str) -> bytes:
        """The chunk up to the value of its `choices`."""
        return encode(self.fields(kind))[:-1] + b',"choices":'

    def suffix(self) -> bytes:
        """The end of a chunk that isn't the usage chunk."""
        return b',"usage":null}' if self.include_usage else b"}"

    def closing(self, prefix: bytes, usage: Mapping[str, Any]) -> bytes:
        """The end of a stream: the usage chunk where it was asked for, and the end mark."""
        if not self.include_usage:
            return DONE
        return b'data: %b[],"usage":%b}\n\n%b' % (prefix, encode(usage), DONE)


def error_event(error: APIError) -> bytes:
    """What tells of an error in the middle of a stream; no end mark follows it."""
    return b"data: %b\n\n" % error.body()


def usage_fields(usage: Usage, reasoning_tokens: int = 0) -> dict[str, Any]:
    """The `usage` of the OpenAI API."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
