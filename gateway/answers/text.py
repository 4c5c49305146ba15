"""`text_completion`, whole and in chunks.

Source: the OpenAI API reference, "The completion object".
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from engine.base import Prompt, TokenDelta, TokenLogprob
from gateway.answers import Heading, encode, error_event, usage_fields
from gateway.call import Usage
from gateway.errors import APIError


@dataclass(frozen=True, slots=True)
class TextForm:
    """What an answer holds besides the completions.

    `echo`: the prompt in front. `logprobs`: with each token its log-probability. `prompt_only`: the
    completion itself is left out, as for `max_tokens` 0. `best_of` completions of each prompt were
    made, of which the `n` likeliest by the mean of their tokens are told.
    """

    echo: bool = False
    logprobs: bool = False
    prompt_only: bool = False
    n: int = 1
    best_of: int = 1


class TextAnswer:
    """Implements `answers.Answer`."""

    def __init__(self, heading: Heading, form: TextForm | None = None) -> None:
        self._heading = heading
        self._prefix = heading.prefix("text_completion")
        self._suffix = heading.suffix()
        self._form = form or TextForm()
        self._prompts: Sequence[Prompt] = ()
        self._scales: dict[int, _Scale] = {}

    @property
    def reasoning_tokens(self) -> int:
        return 0

    def begin(self, prompts: Sequence[Prompt]) -> None:
        self._prompts = prompts

    def whole(self, choices: Sequence[TokenDelta], usage: Usage) -> bytes:
        told = [self._told(choice) for choice in self._best(choices)]
        return encode(
            self._heading.fields("text_completion")
            | {"choices": told, "usage": usage_fields(self._counted(usage))}
        )

    def events(self, delta: TokenDelta) -> bytes:
        first = delta.index not in self._scales
        if not (first and self._form.echo) and not delta.text and delta.finish_reason is None:
            # Log-probabilities come with the text they belong to: there are none here.
            self._scales.setdefault(delta.index, self._scale(delta.index))
            return b""
        told = self._told(delta)
        event = b'data: %b[{"text":%b,"index":%d,"logprobs":%b,"finish_reason":%b}]%b\n\n'
        return event % (
            self._prefix,
            encode(told["text"]),
            delta.index,
            encode(told["logprobs"]),
            encode(told["finish_reason"]),
            self._suffix,
        )

    def finished(self, usage: Usage) -> bytes:
        return self._heading.closing(self._prefix, usage_fields(self._counted(usage)))

    def failed(self, error: APIError) -> bytes:
        return error_event(error)

    def record(self, usage: Usage) -> bytes | None:
        return None

    def _told(self, delta: TokenDelta) -> dict[str, Any]:
        """A choice, or what it gained."""
        form, scale = self._form, self._scales.get(delta.index)
        text, logprobs, reason = delta.text, delta.logprobs, delta.finish_reason
        if form.prompt_only:
            text, logprobs, reason = "", (), reason and "length"
        opening: Sequence[TokenLogprob] = ()
        prompt = self._prompt(delta.index)
        if scale is None:
            scale = self._scales[delta.index] = self._scale(delta.index)
            if form.echo:
                text = (prompt.text or "") + text
                opening = delta.prompt_logprobs
        told = scale.read([*opening, *logprobs], prompt) if form.logprobs else None
        return {"text": text, "index": delta.index, "logprobs": told, "finish_reason": reason}

    def _prompt(self, index: int) -> Prompt:
        return self._prompts[index // self._form.n]

    def _scale(self, index: int) -> _Scale:
        begins = 0 if self._form.echo else len(self._prompt(index).text or "")
        return _Scale(begins)

    def _best(self, choices: Sequence[TokenDelta]) -> Sequence[TokenDelta]:
        form = self._form
        if form.best_of == form.n:
            return choices
        best: list[TokenDelta] = []
        for begin in range(0, len(choices), form.best_of):
            ranked = sorted(choices[begin : begin + form.best_of], key=_likelihood, reverse=True)
            best += ranked[: form.n]
        return [structs.replace(choice, index=index) for index, choice in enumerate(best)]

    def _counted(self, usage: Usage) -> Usage:
        if not self._form.prompt_only:
            return usage
        return Usage(usage.prompt_tokens, 0, usage.cached_tokens)


def _likelihood(choice: TokenDelta) -> float:
    """The mean log-probability of a choice's tokens. One that says nothing has none to compare, and
    is the best only where all are so."""
    scores = [one.logprob for one in choice.logprobs if one.logprob is not None]
    return sum(scores) / len(scores) if scores else -math.inf


class _Scale:
    """Where each token of a choice begins in the prompt's text and the completion's together."""

    def __init__(self, begins: int) -> None:
        self._offset = begins
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, tokens: Sequence[TokenLogprob], prompt: Prompt) -> dict[str, Any]:
        """The `logprobs` object of `tokens`."""
        return {
            "tokens": [_spelled(one) for one in tokens],
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": [_top(one) for one in tokens],
            "text_offset": [self._pass(one, prompt.text or "") for one in tokens],
        }

    def _pass(self, one: TokenLogprob, prompt: str) -> int:
        begins = self._offset
        text = self._decoder.decode(one.bytes)
        # The prompt's control tokens are no part of its text.
        if begins >= len(prompt) or prompt.startswith(text, begins):
            self._offset += len(text)
        return begins


def _top(one: TokenLogprob) -> dict[str, float | None] | None:
    """The likeliest tokens, and the one that was chosen if it isn't among them."""
    if one.logprob is None:
        return None
    return {_spelled(one): one.logprob} | {_spelled(other): other.logprob for other in one.top}


def _spelled(one: TokenLogprob) -> str:
    """A token's text; of part of a character, as the API has it, its bytes."""
    try:
        return one.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in one.bytes)
