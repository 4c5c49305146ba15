"""Prompts of an exact token count, by the server's own tokenizer.

First the server's tokenizer is asked which common words cost exactly one token, a whole group
per question. From those words a prompt of any length is written without asking again, so that
no prompt of the measurement has been seen by the server, or by its prefix cache, before. Where
no word is one token, as with tokenizers of bytes, prompts are written letter by letter.
"""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from bench.client import Target
from bench.counting import PromptRefusedError, TokenCounter, find_counter
from bench.errors import BenchError
from bench.words import WORDS

_OPENING_WORDS = 6
_FEWEST_USABLE_WORDS = 24
_ENOUGH_WORDS = 384
_GROUP = 32
_ADJUSTMENTS = 8
_COUNTS_AT_ONCE = 8
_ANCHOR = ("the", "of", "and", "to", "in", "is", "it", "for")
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
        """The request fields that carry this prompt; layouts are those of `Workload`."""
        if layout == "system+user":
            # Without a system message of our own many templates add a constant one, which every
            # request would then share in the prefix cache.
            opening = self._part(0, self.words[:_OPENING_WORDS])
            body = self._part(1, self.words[_OPENING_WORDS:])
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
class Workload:
    """Prompts of exactly `input_tokens` each, no two of them sharing their first words.

    `layout` is `system+user`, `user` or `text`; `counted_by` names the counter.
    """

    drafts: tuple[Draft, ...]
    input_tokens: int
    layout: str
    counted_by: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that cost one token each, and the tokens that everything around them costs."""

    words: tuple[str, ...]
    overhead: int
    layout: str
    separator: str = " "


async def build_workload(
    session: aiohttp.ClientSession, target: Target, *, input_tokens: int, count: int, seed: int
) -> Workload:
    """Write `count` prompts of exactly `input_tokens`, the same for the same seed and tokenizer.

    Raises BenchError: the server can't count, or the chat template leaves no room.
    """
    layout, counter = await _find_layout(session, target)
    vocabulary = await calibrate(counter, layout)
    drafts = write_drafts(vocabulary, input_tokens=input_tokens, count=count, seed=seed)
    if counter.leaves_no_trace:
        drafts = await _make_exact(drafts, vocabulary, counter, input_tokens)
    return Workload(drafts, input_tokens, layout, counter.name)


async def calibrate(counter: TokenCounter, layout: str) -> Vocabulary:
    """Find one-token words of the server's tokenizer and the cost of its template.

    Raises BenchError: neither common words nor letters are one token each.
    """
    for candidates, separator in _ALPHABETS:
        words = await _single_tokens(counter, layout, candidates, separator)
        if len(words) >= _FEWEST_USABLE_WORDS:
            known = Draft((1, 2), words[: len(_ANCHOR)], separator)
            overhead = await counter.count(known.fields(layout)) - len(known.words)
            return Vocabulary(words, overhead, layout, separator)
    raise BenchError(
        "neither common English words nor letters are one token each for this server's tokenizer; "
        "prompts of an exact length can't be written from them"
    )


async def _single_tokens(
    counter: TokenCounter, layout: str, candidates: Sequence[str], separator: str
) -> tuple[str, ...]:
    anchor = Draft((1, 2), _ANCHOR, separator)
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
    length = input_tokens - vocabulary.overhead
    if length <= _OPENING_WORDS:
        raise BenchError(
            f"--input-tokens {input_tokens} is too few: the chat template and the separators take "
            f"{vocabulary.overhead}, so at least {vocabulary.overhead + _OPENING_WORDS + 1} are "
            "needed (or use --endpoint completions)"
        )
    rng = random.Random(seed)
    drafts: list[Draft] = []
    openings: set[tuple[str, ...]] = set()
    while len(drafts) < count:
        words = tuple(rng.choices(vocabulary.words, k=length))
        digits = (rng.randrange(10), rng.randrange(10))
        if words[:_OPENING_WORDS] not in openings:
            openings.add(words[:_OPENING_WORDS])
            drafts.append(Draft(digits, words, vocabulary.separator))
    return tuple(drafts)


async def _find_layout(session: aiohttp.ClientSession, target: Target) -> tuple[str, TokenCounter]:
    probe = Draft((1, 2), _ANCHOR)
    layouts = ("system+user", "user") if target.endpoint == "chat" else ("text",)
    for layout in layouts[:-1]:
        try:
            return layout, await find_counter(session, target, probe.fields(layout))
        except PromptRefusedError:
            continue  # some chat templates refuse system messages
    return layouts[-1], await find_counter(session, target, probe.fields(layouts[-1]))


async def _make_exact(
    drafts: Sequence[Draft], vocabulary: Vocabulary, counter: TokenCounter, input_tokens: int
) -> tuple[Draft, ...]:
    """Count every prompt; lengthen or shorten those where neighbouring words merged."""
    at_once = asyncio.Semaphore(_COUNTS_AT_ONCE)

    async def exact(draft: Draft) -> Draft:
        for _ in range(_ADJUSTMENTS):
            async with at_once:
                missing = input_tokens - await counter.count(draft.fields(vocabulary.layout))
            if missing == 0:
                return draft
            if missing > 0:
                words = draft.words + vocabulary.words[:missing]
            else:
                words = draft.words[:missing]
            draft = replace(draft, words=words)
        raise BenchError(
            f"no prompt of exactly {input_tokens} tokens found: this server's token counts don't "
            "add up word by word"
        )

    return tuple(await asyncio.gather(*(exact(draft) for draft in drafts)))
