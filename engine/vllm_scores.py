"""Log-probabilities as vLLM's documented outputs have them, for the public token path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from engine.base import GenerateRequest, TokenDelta, TokenLogprob
from engine.detokenizer import Detokenizer
from engine.logprobs import Position, Spelling, SpokenLogprobs, first_of, logprob_of


class Scores:
    """Adds to each delta of one request what its tokens scored.

    `texts` are a detokenizer for each choice: a delta's text may have been held back, so only they
    tell which token it belongs to.
    """

    def __init__(
        self, request: GenerateRequest, texts: Sequence[Detokenizer], words: Spelling
    ) -> None:
        sampling = request.sampling
        self._sampling = sampling
        self._prompt = request.prompt.token_ids
        self._texts = texts
        self._words = words
        self._told = [0] * len(texts)
        self._choices = [SpokenLogprobs(words, sampling.logprobs or 0) for _ in texts]

    def __call__(self, delta: TokenDelta, choice: Any, output: Any) -> TokenDelta:
        """`choice` and `output` are vLLM's CompletionOutput and its RequestOutput."""
        index = delta.index
        self._told[index] += len(delta.text)
        if choice.logprobs is not None:
            self._note(index, delta, choice)
        return structs.replace(
            delta,
            logprobs=self._choices[index].until(self._told[index]),
            prompt_logprobs=self._of_prompt(output.prompt_logprobs),
        )

    def _note(self, index: int, delta: TokenDelta, choice: Any) -> None:
        tokens = list(delta.token_ids)
        # The token that ended the sequence is not text; a stop string's tokens would have been.
        if delta.finish_reason == "stop" and not isinstance(choice.stop_reason, str):
            tokens = tokens[:-1]
        for token, scored in zip(tokens, choice.logprobs, strict=False):
            text = self._texts[index].push(token)
            self._choices[index].add(_position(token, scored, self._sampling.logprobs), text)

    def _of_prompt(self, scored: Any) -> Sequence[TokenLogprob]:
        top = self._sampling.prompt_logprobs
        if not scored or top is None:
            return ()
        # The first token follows nothing: vLLM says None.
        pairs = zip(self._prompt[1:], scored[1:], strict=True)
        return [
            first_of(self._prompt[0], self._words),
            *(logprob_of(_position(token, one, top), self._words, top) for token, one in pairs),
        ]


def _position(token: int, scored: Mapping[int, Any], top: int | None) -> Position:
    likeliest = [
        (other, found.logprob)
        for other, found in scored.items()
        if found.rank is not None and found.rank <= (top or 0)
    ]
    return [(token, scored[token].logprob), *likeliest]
