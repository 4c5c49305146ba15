"""The script of a simulated sequence, and the tokens it is written in.

Tokens are bytes, besides a few control tokens for the parts of a conversation.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from engine.base import (
    ChatMessage,
    FinishReason,
    InvalidPromptError,
    SamplingOptions,
    TokenDelta,
)
from engine.stops import StopStrings

BOS, EOS, END = 256, 257, 258
ROLES = {"system": 259, "developer": 260, "user": 261, "assistant": 262, "tool": 263}
VOCAB_SIZE = 264


class ScriptedSequence:
    """One choice: walks through the script and cuts at stop strings."""

    def __init__(
        self,
        index: int,
        limit: int,
        sampling: SamplingOptions,
        answer: bytes,
    ) -> None:
        self.produced = 0
        self.finished = False
        self._index = index
        self._limit = limit
        self._sampling = sampling
        self._answer = answer
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._stops = StopStrings(sampling.stop)

    def advance(self) -> TokenDelta:
        """Produce the next token."""
        token = self._next_token()
        self.produced += 1
        finish = self._finish(token)
        text = ""
        if token < BOS and finish != "stop":
            ignored = self.produced <= self._sampling.min_tokens
            decoded = self._decoder.decode(bytes((token,)))
            text, stopped = self._stops.push(decoded, ignored=ignored)
            finish = "stop" if stopped else finish
        if finish is not None:
            text += self._stops.rest()
        self.finished = finish is not None
        return TokenDelta(self._index, text, (token,), finish)

    def _next_token(self) -> int:
        at_end = self.produced >= len(self._answer)
        if at_end and not self._sampling.ignore_eos and self.produced >= self._sampling.min_tokens:
            return EOS
        return self._answer[self.produced % len(self._answer)]

    def _finish(self, token: int) -> FinishReason | None:
        enough = self.produced > self._sampling.min_tokens
        if token == EOS or (enough and token in self._sampling.stop_token_ids):
            return "stop"
        return "length" if self.produced >= self._limit else None


def render_chat(messages: Sequence[ChatMessage]) -> list[int]:
    tokens = [BOS]
    for message in messages:
        tokens += [ROLES[message.role], *encode(message.content), END]
    return [*tokens, ROLES["assistant"]]


def encode(text: str) -> list[int]:
    try:
        return list(text.encode())
    except UnicodeEncodeError:
        raise InvalidPromptError("The text holds half a surrogate pair.") from None
