"""The requests of the front-end benchmark: no two alike, every answer known beforehand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

from bench.load import Expected, Request
from bench.prompts.words import WORDS
from bench.tiny.model import TinyModel

_PROMPT_WORDS = 100
_FEWEST_SHORT, _SHORT_PER_CLIENT = 500, 3
_FEWEST_LONG, _LONG_PER_CLIENT, _LONG_AT_ONCE, _LONG_TURNS = 40, 8, 768, 2


@dataclass(frozen=True, slots=True)
class Work:
    """Three runs at one concurrency: answers of one token, streamed and not, tell what a request
    costs; long ones of mixed lengths, streamed, what a token costs beyond that."""

    concurrency: int
    short_streamed: list[Request]
    short_whole: list[Request]
    long: list[Request]

    @property
    def parts(self) -> tuple[list[Request], ...]:
        return self.short_streamed, self.short_whole, self.long

    @property
    def tokens(self) -> int:
        return sum(map(tokens, self.parts))


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is asked: long answers have half to one and a half times `output_tokens`.

    By default a run lasts a few seconds; `scale` multiplies its requests.
    """

    output_tokens: int
    scale: float

    def short(self, concurrency: int) -> int:
        """How many answers of one token."""
        return self._scaled(concurrency, max(_FEWEST_SHORT, _SHORT_PER_CLIENT * concurrency))

    def long(self, concurrency: int) -> int:
        """How many long answers; each client has at least two, one after the other."""
        usual = min(_LONG_PER_CLIENT * concurrency, _LONG_AT_ONCE)
        return self._scaled(concurrency, max(_FEWEST_LONG, usual, _LONG_TURNS * concurrency))

    def tokens(self, concurrency: int) -> int:
        """About how many tokens the answers at this concurrency have."""
        return 2 * self.short(concurrency) + self.long(concurrency) * self.output_tokens

    def _scaled(self, concurrency: int, requests: int) -> int:
        return max(concurrency, round(self.scale * requests))


class Writer:
    """Writes requests to the tiny model, the same for the same seed.

    Each prompt begins with a number of its own, so that no prefix cache has any of it.
    """

    def __init__(self, model: TinyModel, name: str, seed: int) -> None:
        self._name = name
        self._rng = random.Random(seed)
        self._numbers = count(1)

        @cache
        def expected(last_word: str, length: int) -> Expected:
            text, completion_tokens = model.answer(model.prompt(last_word), length)
            return Expected((text,), completion_tokens)

        self._expected = expected

    def work(self, concurrency: int, amount: Amount) -> Work:
        """The requests of one round at this concurrency."""
        ones = [1] * amount.short(concurrency)
        return Work(
            concurrency,
            short_streamed=self.requests(ones, stream=True),
            short_whole=self.requests(ones, stream=False),
            long=self.long(amount.long(concurrency), amount.output_tokens),
        )

    def long(self, requests: int, output_tokens: int) -> list[Request]:
        """Streamed answers of lengths so mixed that streams don't move in lock step."""
        low, high = output_tokens // 2, output_tokens * 3 // 2
        lengths = [self._rng.randint(low, high) for _ in range(requests)]
        return self.requests(lengths, stream=True)

    def requests(self, lengths: Sequence[int], *, stream: bool) -> list[Request]:
        """One request a length, in tokens."""
        return [self._request(length, stream=stream) for length in lengths]

    def _request(self, length: int, *, stream: bool) -> Request:
        words = self._rng.choices(WORDS, k=_PROMPT_WORDS)
        content = " ".join((str(next(self._numbers)), *words))
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": length,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        return Request(json.dumps(body).encode(), self._expected(words[-1], length))


def tokens(requests: Sequence[Request]) -> int:
    """Tokens of all answers."""
    return sum(one.expected.completion_tokens for one in requests if one.expected is not None)
