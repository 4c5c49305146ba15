"""Prompts that begin like others, as with a long system prompt: what a prefix cache is for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import aiohttp

from bench.client import Target
from bench.errors import BenchError
from bench.measuring.facts import ServerFacts
from bench.measuring.settings import Settings
from bench.prompts.author import Author, find_author
from bench.prompts.drafts import OPENING_WORDS, Draft
from bench.prompts.lengths import shortest
from bench.prompts.prompt import Workload
from bench.prompts.workload import begin_with, lengths_of

_FEWEST = OPENING_WORDS + 1


async def prepare(
    session: aiohttp.ClientSession, target: Target, settings: Settings, _server: ServerFacts
) -> Workload:
    """Each prompt is one of a few prefixes, drawn at random, and words of its own."""
    author = await find_author(session, target)
    shared = _prefix_tokens(settings, author)
    prefixes = [
        draft
        for draft, _ in author.drafts(
            repeat(shared + author.vocabulary.overhead, settings.dataset.prefixes),
            f"prefixes {settings.seed}",
        )
    ]

    def supply(seed: int | str) -> Iterator[tuple[Draft, int]]:
        return _with_prefixes(author, prefixes, shared, settings, seed)

    count = settings.warmup + settings.requests
    begin = await begin_with(author, supply, count, settings.seed)
    note = f"shared prefixes of {shared} tokens: {settings.dataset.prefixes}"
    return Workload(begin, author.layout, author.counter.name, settings.dataset.kind, (note,))


def _prefix_tokens(settings: Settings, author: Author) -> int:
    """Raises BenchError: nothing would be left of the prompt."""
    fewest = shortest(settings.input_tokens)
    most = fewest - author.vocabulary.shortest
    wanted = settings.dataset.prefix_tokens
    shared = min(fewest // 2, most) if wanted is None else wanted
    if not _FEWEST <= shared <= most:
        raise BenchError(
            f"--prefix-tokens {shared}: expected {_FEWEST} to {most}, so that template and "
            f"words of its own fit a prompt of {fewest} tokens; or raise --input-tokens"
        )
    return shared


def _with_prefixes(
    author: Author, prefixes: list[Draft], shared: int, settings: Settings, seed: int | str
) -> Iterator[tuple[Draft, int]]:
    rng = random.Random(f"choice {seed}")
    own = (tokens - shared for tokens in lengths_of(settings.input_tokens, seed))
    for draft, tokens in author.drafts(own, seed):
        prefix = rng.choice(prefixes)
        whole = replace(draft, digits=prefix.digits, words=prefix.words + draft.words)
        yield whole, tokens + shared
