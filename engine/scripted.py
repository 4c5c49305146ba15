"""The script of a simulated sequence, and the tokens it is written in.

Tokens are bytes, besides a few control tokens for the parts of a conversation.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence

from engine.base import (
    Conversation,
    FinishReason,
    GenerateRequest,
    InvalidPromptError,
    Structure,
    TokenDelta,
    TokenLogprob,
    Tool,
)
from engine.logprobs import SpokenLogprobs, first_of, logprob_of
from engine.stops import StopStrings

BOS, EOS, END = 256, 257, 258
ROLES = {"system": 259, "developer": 260, "user": 261, "assistant": 262, "tool": 263}
VOCAB_SIZE = 264


class ScriptedSequence:
    """One choice: walks through the script and cuts at stop strings. What it is continued from is
    walked through first, and counts as produced."""

    def __init__(
        self,
        index: int,
        limit: int,
        request: GenerateRequest,
        answer: bytes,
    ) -> None:
        sampling = request.sampling
        self.produced = 0
        self.finished = False
        self._index = index
        self._limit = limit
        self._sampling = sampling
        self._answer = answer
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._stops = StopStrings(sampling.stop)
        self._told = 0
        self._logprobs: SpokenLogprobs | None = None
        if sampling.logprobs is not None:
            self._logprobs = SpokenLogprobs(_ByteTokens(), sampling.logprobs)
        self._scored: Sequence[TokenLogprob] = ()
        if sampling.prompt_logprobs is not None:
            self._scored = scored_prompt(request.prompt.token_ids, sampling.prompt_logprobs)
        for token in request.generated:
            self._add(token)

    def advance(self) -> TokenDelta:
        """Produce the next token."""
        return self._add(self._next_token())

    def _add(self, token: int) -> TokenDelta:
        self.produced += 1
        finish = self._finish(token)
        text = ""
        if token < BOS and finish != "stop":
            ignored = self.produced <= self._sampling.min_tokens
            decoded = self._decoder.decode(bytes((token,)))
            if self._logprobs is not None:
                certain = (token, 0.0)
                self._logprobs.add((certain, certain), decoded)
            text, stopped = self._stops.push(decoded, ignored=ignored)
            finish = "stop" if stopped else finish
        if finish is not None:
            text += self._stops.rest()
        self.finished = finish is not None
        self._told += len(text)
        logprobs = self._logprobs.until(self._told) if self._logprobs is not None else ()
        scored, self._scored = self._scored, ()
        return TokenDelta(
            self._index,
            text,
            (token,),
            finish,
            logprobs=logprobs,
            prompt_logprobs=scored,
            stop_string=self._stops.matched,
        )

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


class ScriptedCalls:
    """Implements `engine.tools.ToolSyntax`, so that a script can hold calls:
    `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as Hermes models write them."""

    name = "scripted"
    starts: tuple[str, ...] = ("<tool_call>",)
    leads = False
    end: str | None = "</tool_call>"
    spoken = False

    def calls(self, text: str) -> Sequence[tuple[str, str]]:
        try:
            call = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
            return [(call["name"], json.dumps(call["arguments"]))]
        except (ValueError, KeyError, TypeError, RecursionError):
            return ()

    def structure(
        self, tools: Sequence[Tool], *, parallel: bool, otherwise: Structure | None = None
    ) -> Structure | None:
        return otherwise


SCRIPTED_CALLS = ScriptedCalls()


def render_chat(conversation: Conversation) -> list[int]:
    """The tools come first, as a system message that lists them."""
    tokens = [BOS]
    if conversation.tools:
        listed = "".join(f"{tool.name}: {tool.description}\n" for tool in conversation.tools)
        tokens += [ROLES["system"], *encode(listed), END]
    for message in conversation.messages:
        calls = "".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
        tokens += [ROLES[message.role], *encode(message.content + calls), END]
    return [*tokens, ROLES["assistant"]]


class _ByteTokens:
    def bytes_of(self, token_id: int) -> bytes:
        return bytes((token_id,)) if token_id < BOS else b""


def scored_prompt(tokens: Sequence[int], top: int) -> list[TokenLogprob]:
    """Log-probabilities of a prompt: every token is certain."""
    words = _ByteTokens()
    return [
        first_of(tokens[0], words),
        *(logprob_of(((t, 0.0), (t, 0.0)), words, top) for t in tokens[1:]),
    ]


def encode(text: str) -> list[int]:
    try:
        return list(text.encode())
    except UnicodeEncodeError:
        raise InvalidPromptError("The text holds half a surrogate pair.") from None
