"""Runs the sizes that will be served once, so that no request pays for the first time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from engine.base import Engine, GenerateRequest, Prompt, SamplingOptions, StartPhase
from engine.streaming import generate

SHORT_PROMPT = 16
TOKENS = 4

Report = Callable[[StartPhase | str], None]


async def warm_up(engine: Engine, *, step_tokens: int, report: Report) -> list[StartPhase]:
    """One prompt that fills a whole step, then 1, 2, 4, … sequences together, greedy and not.

    `step_tokens` is the most one step takes. Raises EngineError.
    """
    info = engine.info
    longest = min(step_tokens, info.max_model_len - TOKENS, (info.kv_cache_tokens or 0) // 2)
    phases = [await _timed(engine, 1, max(1, longest), f"warm-up 1x{longest}", report)]
    for count in _powers_of_two(info.max_num_seqs):
        length = min(SHORT_PROMPT, info.max_model_len - TOKENS)
        phases.append(await _timed(engine, count, length, f"warm-up {count}x{length}", report))
    return phases


async def _timed(engine: Engine, count: int, length: int, name: str, report: Report) -> StartPhase:
    report(name)
    begun = time.perf_counter()
    await asyncio.gather(*(_complete(engine, name, i, length) for i in range(count)))
    phase = StartPhase(name, time.perf_counter() - begun)
    report(phase)
    return phase


async def _complete(engine: Engine, name: str, number: int, length: int) -> None:
    # Half of the vocabulary's middle: no control tokens, and no two prompts alike, so that
    # nothing is read from the prefix cache.
    low, high = engine.info.vocab_size // 4, engine.info.vocab_size // 2
    tokens = random.Random(f"{name} {number}").choices(range(low, high), k=length)
    sampling = SamplingOptions(
        max_tokens=TOKENS,
        ignore_eos=True,
        temperature=0.0 if number % 2 == 0 else 0.8,
        top_p=1.0 if number % 4 < 2 else 0.9,
    )
    request = GenerateRequest(f"{name} {number}", Prompt(tokens), sampling)
    async for _ in generate(engine, request):
        pass


def _powers_of_two(largest: int) -> list[int]:
    sizes = [1]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return sizes
