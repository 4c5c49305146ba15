"""Writes prompts for one server and endpoint, of exact lengths by the server's own tokenizer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import aiohttp

from bench.client import Target
from bench.errors import BenchError
from bench.prompts.counting import PromptRefusedError, TokenCounter, find_counter
from bench.prompts.drafts import ANCHOR, Draft, Vocabulary, calibrate, drafts
from bench.prompts.prompt import Prompt

_ADJUSTMENTS = 8
_COUNTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Author:
    """What is known of the server: how prompts are laid out, counted, and which words it has."""

    counter: TokenCounter
    vocabulary: Vocabulary

    @property
    def layout(self) -> str:
        return self.vocabulary.layout

    def drafts(self, lengths: Iterable[int], seed: str | int) -> Iterator[tuple[Draft, int]]:
        """Drafts of these lengths in tokens; not checked with the server."""
        return drafts(self.vocabulary, lengths, random.Random(seed))

    def prompt(self, draft: Draft, tokens: int | None) -> Prompt:
        return Prompt(draft.fields(self.layout), tokens)

    async def exact(self, written: Sequence[tuple[Draft, int]]) -> tuple[Draft, ...]:
        """Count every draft; lengthen or shorten those where neighbouring words merged.

        Counts nothing where that would bring the prompts to the server's prefix cache. Raises
        BenchError: no draft of that length is found.
        """
        if not self.counter.leaves_no_trace:
            return tuple(draft for draft, _ in written)
        at_once = asyncio.Semaphore(_COUNTS_AT_ONCE)

        async def adjusted(draft: Draft, tokens: int) -> Draft:
            async with at_once:
                return await self._adjusted(draft, tokens)

        return tuple(await asyncio.gather(*(adjusted(draft, n) for draft, n in written)))

    async def _adjusted(self, draft: Draft, tokens: int) -> Draft:
        for _ in range(_ADJUSTMENTS):
            missing = tokens - await self.counter.count(draft.fields(self.layout))
            if missing == 0:
                return draft
            if missing > 0:
                words = draft.words + self.vocabulary.words[:missing]
            else:
                words = draft.words[:missing]
            draft = replace(draft, words=words)
        raise BenchError(
            f"no prompt of exactly {tokens} tokens found: this server's token counts don't "
            "add up word by word"
        )


async def find_author(session: aiohttp.ClientSession, target: Target) -> Author:
    """Raises BenchError: the server can't count, or has no words of one token."""
    layout, counter = await _find_layout(session, target)
    return Author(counter, await calibrate(counter, layout))


async def _find_layout(session: aiohttp.ClientSession, target: Target) -> tuple[str, TokenCounter]:
    probe = Draft((1, 2), ANCHOR)
    layouts = ("system+user", "user") if target.endpoint == "chat" else ("text",)
    for layout in layouts[:-1]:
        try:
            return layout, await find_counter(session, target, probe.fields(layout))
        except PromptRefusedError:
            continue  # some chat templates refuse system messages
    return layouts[-1], await find_counter(session, target, probe.fields(layouts[-1]))
