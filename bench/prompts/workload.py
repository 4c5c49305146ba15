"""Random prompts of exact token counts, by the server's own tokenizer.

No prompt of the measurement has been seen by the server, or by its prefix cache, before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice, repeat

import aiohttp

from bench.client import Target
from bench.prompts.author import Author, find_author
from bench.prompts.drafts import Draft, Vocabulary, calibrate, check_length, write_drafts
from bench.prompts.lengths import Lengths, draw, shortest
from bench.prompts.prompt import Prompt, Workload

__all__ = [
    "Draft", "Vocabulary", "Workload", "begin_with", "build_workload", "calibrate", "lengths_of",
    "write_drafts",
]  # fmt: skip

Supply = Iterator[tuple[Draft, int]]


async def build_workload(
    session: aiohttp.ClientSession,
    target: Target,
    *,
    input_tokens: int | Lengths,
    count: int,
    seed: int,
) -> Workload:
    """Write `count` prompts of `input_tokens`, the same for the same seed and tokenizer.

    The workload has no end: prompts after those are written when they are asked for. Raises
    BenchError: the server can't count, or the chat template leaves no room.
    """
    author = await find_author(session, target)
    check_length(author.vocabulary, shortest(input_tokens))

    def supply(seed: int | str) -> Supply:
        return author.drafts(lengths_of(input_tokens, seed), seed)

    begin = await begin_with(author, supply, count, seed)
    return Workload(begin, author.layout, author.counter.name)


async def begin_with(
    author: Author, supply: Callable[[int | str], Supply], count: int, seed: int
) -> Callable[[int], Iterator[Prompt]]:
    """`Workload.begin` for drafts of a supply: `count` that are made exact now, then more."""
    written = list(islice(supply(seed), count))
    drafts = await author.exact(written)
    prompts = [author.prompt(draft, n) for draft, (_, n) in zip(drafts, written, strict=True)]
    # Where words merge, only the server knows how long a prompt is that it hasn't counted.
    merges = any(draft is not first for draft, (first, _) in zip(drafts, written, strict=True))

    def begin(_warmup: int) -> Iterator[Prompt]:
        yield from prompts
        for draft, tokens in supply(f"{seed} more"):
            yield author.prompt(draft, None if merges else tokens)

    return begin


def lengths_of(tokens: int | Lengths, seed: int | str) -> Iterator[int]:
    """Without end, the same for the same seed."""
    if isinstance(tokens, int):
        return repeat(tokens)
    rng = random.Random(f"lengths {seed}")
    return (draw(tokens, rng) for _ in repeat(None))
