"""Prompts written word by word, of as many tokens as they have words and a template around them.

The server's tokenizer is asked which common words cost exactly one token, a whole group per
question. From those words a prompt of any length is written without asking again. Where no word
is one token, as with tokenizers of bytes, prompts are written letter by letter.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from bench.errors import BenchError
from bench.prompts.counting import TokenCounter
from bench.prompts.words import WORDS

OPENING_WORDS = 6
_FEWEST_USABLE_WORDS = 24
_ENOUGH_WORDS = 384
_GROUP = 32
ANCHOR = ("the", "of", "and", "to", "in", "is", "it", "for")
_ALPHABETS = ((WORDS, " "), (tuple(string.ascii_lowercase), ""))


@dataclass(frozen=True, slots=True)
class Draft:
    """One prompt before it is laid out for an endpoint.

    A digit leads each part because a first word, without the space before it, may cost another
    number of tokens than the same word later on; digits all cost the same.
    """

    digits: tuple[int, int]
    words: tuple[str, ...]
    separator: str = " "

    def fields(self, layout: str) -> dict[str, Any]:
        """The request fields that carry this prompt; `system+user`, `user` or `text`."""
        if layout == "system+user":
            # Without a system message of our own many templates add a constant one, which every
            # request would then share in the prefix cache.
            opening = self._part(0, self.words[:OPENING_WORDS])
            body = self._part(1, self.words[OPENING_WORDS:])
            return {
                "messages": [
                    {"role": "system", "content": opening},
                    {"role": "user", "content": body},
                ]
            }
        text = self._part(0, self.words)
        if layout == "user":
            return {"messages": [{"role": "user", "content": text}]}
        return {"prompt": text}

    def _part(self, which: int, words: Sequence[str]) -> str:
        return self.separator.join((str(self.digits[which]), *words))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that cost one token each, and the tokens that everything around them costs."""

    words: tuple[str, ...]
    overhead: int
    layout: str
    separator: str = " "

    @property
    def shortest(self) -> int:
        """Tokens of the shortest prompt that can be told from others."""
        return self.overhead + OPENING_WORDS + 1


async def calibrate(counter: TokenCounter, layout: str) -> Vocabulary:
    """Find one-token words of the server's tokenizer and the cost of its template.

    Raises BenchError: neither common words nor letters are one token each.
    """
    for candidates, separator in _ALPHABETS:
        words = await _single_tokens(counter, layout, candidates, separator)
        if len(words) >= _FEWEST_USABLE_WORDS:
            known = Draft((1, 2), words[: len(ANCHOR)], separator)
            overhead = await counter.count(known.fields(layout)) - len(known.words)
            return Vocabulary(words, overhead, layout, separator)
    raise BenchError(
        "neither common English words nor letters are one token each for this server's tokenizer; "
        "prompts of an exact length can't be written from them"
    )


async def _single_tokens(
    counter: TokenCounter, layout: str, candidates: Sequence[str], separator: str
) -> tuple[str, ...]:
    anchor = Draft((1, 2), ANCHOR, separator)
    base = await counter.count(anchor.fields(layout))

    async def single(group: Sequence[str]) -> list[str]:
        longer = Draft(anchor.digits, (*anchor.words, *group), separator)
        cost = await counter.count(longer.fields(layout)) - base
        if cost == len(group):
            return list(group)
        if len(group) == 1:
            return []
        half = len(group) // 2
        return await single(group[:half]) + await single(group[half:])

    # Short words first: a group of them is more often of one token each.
    ordered = sorted(candidates, key=len)
    words: list[str] = []
    for start in range(0, len(ordered), _GROUP):
        words += await single(ordered[start : start + _GROUP])
        if not words or len(words) >= _ENOUGH_WORDS:
            break
    return tuple(words)


def write_drafts(
    vocabulary: Vocabulary, *, input_tokens: int, count: int, seed: int
) -> tuple[Draft, ...]:
    """Random sentences of one-token words; no two start with the same words.

    Raises BenchError: the template alone is too long.
    """
    return tuple(
        draft for draft, _ in drafts(vocabulary, repeat(input_tokens, count), random.Random(seed))
    )


def drafts(
    vocabulary: Vocabulary, lengths: Iterable[int], rng: random.Random
) -> Iterator[tuple[Draft, int]]:
    """A draft of each length in tokens, as `write_drafts` has them, and that length."""
    openings: set[tuple[str, ...]] = set()
    for tokens in lengths:
        check_length(vocabulary, tokens)
        while True:
            words = tuple(rng.choices(vocabulary.words, k=tokens - vocabulary.overhead))
            digits = (rng.randrange(10), rng.randrange(10))
            if words[:OPENING_WORDS] not in openings:
                break
        openings.add(words[:OPENING_WORDS])
        yield Draft(digits, words, vocabulary.separator), tokens


def check_length(vocabulary: Vocabulary, tokens: int) -> None:
    """Raises BenchError: so few tokens make no prompt."""
    if tokens < vocabulary.shortest:
        raise BenchError(
            f"--input-tokens {tokens} is too few: the chat template and the separators take "
            f"{vocabulary.overhead}, so at least {vocabulary.shortest} are needed (or use "
            "--endpoint completions)"
        )
