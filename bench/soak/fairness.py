"""Many concurrent streams, with and without readers that stall or leave: what do the others see?"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.load import Expected, Outcome, Request, Result, run_aside
from bench.prompts.words import WORDS
from bench.soak.stalled import read_late
from bench.stats import Interval, bootstrap_median, percentile
from bench.tiny.model import TinyModel
from bench.tiny.servers import NAME

_PATH: Final = "/chat/completions"
_PROMPT_WORDS: Final = 100
# Longer than the kernel buffers for a client that doesn't read: about 400 kB of events.
_STALLED_TOKENS: Final = 2000
_GRACE_S: Final = 300.0
METRICS: Final = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms")


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who asks in one run. `stalling` ask for much, `leaving` hang up; `others` are measured.

    In a healthy run those that would stall or leave ask for the same and read it all.
    """

    stalling: list[Request]
    leaving: list[Request]
    others: list[Request]


@dataclass(frozen=True, slots=True)
class Size:
    """`streams` in all, `concurrency` at once; `share` of the connections stall for `stall_s`,
    and that of the streams are left."""

    concurrency: int
    streams: int
    share: float
    stall_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What the others saw in one run; latencies in ms. `faults` are of everybody's answers."""

    disturbed: bool
    metrics: dict[str, float]
    streams: int
    tokens_per_s: float
    client_cpu_share: float
    faults: list[str]


def crowd(model: TinyModel, size: Size, seed: int) -> Crowd:
    """Requests whose prompts differ from the first word on, each with the answer it has to get."""
    rng = random.Random(seed)
    count = round(size.share * size.concurrency)
    stalling = [_request(model, rng, _STALLED_TOKENS) for _ in range(count)]
    requests = [_request(model, rng, rng.randint(64, 192)) for _ in range(size.streams - count)]
    left = round(size.share * size.streams)
    return Crowd(
        stalling=[replace(request, stall_s=size.stall_s) for request in stalling],
        leaving=[replace(one, hang_up_after=rng.randint(1, 60)) for one in requests[:left]],
        others=requests[left:],
    )


def _request(model: TinyModel, rng: random.Random, max_tokens: int) -> Request:
    content = " ".join(rng.choices(WORDS, k=_PROMPT_WORDS))
    text, tokens = model.answer(model.prompt(content), max_tokens)
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Request(json.dumps(body).encode(), Expected((text,), tokens))


async def watch(
    base_url: str,
    who: Crowd,
    concurrency: int,
    seed: int,
    *,
    disturbed: bool,
    on_progress: Callable[[int], None],
) -> Seen:
    """One run. Raises BenchError: the server can't be connected to."""
    asked = [*who.leaving, *who.others]
    random.Random(seed).shuffle(asked)
    if not disturbed:
        asked = [replace(one, stall_s=0.0, hang_up_after=None) for one in [*who.stalling, *asked]]
    late = who.stalling if disturbed else []
    stalled = asyncio.gather(
        *(read_late(base_url, _PATH, one, one.stall_s + _GRACE_S) for one in late)
    )
    try:
        result = await run_aside(
            base_url, _PATH, asked, concurrency=concurrency - len(late), on_progress=on_progress
        )
        outcomes = [*result.outcomes, *await stalled]
    finally:
        stalled.cancel()
    others = {one.body for one in who.others}
    watched = [one for one in result.outcomes if one.request.body in others]
    faults = [fault for one in outcomes if (fault := one.fault()) is not None]
    return _seen(watched, result, faults, disturbed=disturbed)


def _seen(others: Sequence[Outcome], result: Result, faults: list[str], *, disturbed: bool) -> Seen:
    timings = [timing for one in others if (timing := one.timing()) is not None]
    first = sorted(timing.first_s for timing in timings)
    gaps = sorted(gap for timing in timings for gap in timing.gaps_s)
    values = {"ttft": first, "itl": gaps}
    metrics = {
        f"{name}_p{percent}_ms": 1000 * percentile(ordered, percent)
        for name, ordered in values.items()
        for percent in (50, 99)
        if ordered
    }
    tokens = sum(one.request.expected.completion_tokens for one in others if one.request.expected)
    return Seen(
        disturbed=disturbed,
        metrics=metrics,
        streams=len(others),
        tokens_per_s=tokens / result.wall_s,
        client_cpu_share=result.cpu_share,
        faults=faults,
    )


def ratios(runs: Sequence[Seen]) -> dict[str, Interval]:
    """Disturbed / healthy of every round, by metric: the median and its interval. `runs` holds
    one of each kind a round."""
    found = {}
    for name in METRICS:
        healthy, disturbed = (
            [one.metrics.get(name) for one in runs if one.disturbed is kind]
            for kind in (False, True)
        )
        pairs = zip(healthy, disturbed, strict=True)
        values = [after / before for before, after in pairs if before and after]
        if values:
            found[name] = bootstrap_median(values)
    return found
