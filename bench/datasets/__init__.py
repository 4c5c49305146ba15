"""Where prompts come from: one file a dataset."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import aiohttp

from bench.client import Target
from bench.datasets import multi_turn, random_words, replay, shared_prefix, sharegpt
from bench.measuring.facts import ServerFacts
from bench.measuring.settings import DatasetKind, Settings
from bench.prompts.prompt import Workload

__all__ = ["prepare"]

Prepare = Callable[[aiohttp.ClientSession, Target, Settings, ServerFacts], Awaitable[Workload]]
_DATASETS: dict[DatasetKind, Prepare] = {
    "random": random_words.prepare,
    "shared-prefix": shared_prefix.prepare,
    "multi-turn": multi_turn.prepare,
    "sharegpt": sharegpt.prepare,
    "replay": replay.prepare,
}


async def prepare(
    session: aiohttp.ClientSession, target: Target, settings: Settings, server: ServerFacts
) -> Workload:
    """Get ready what the settings ask for, with the tokenizer of the server behind `target`.

    Raises BenchError: the server can't count, the file can't be read, or nothing in it can be used.
    """
    return await _DATASETS[settings.dataset.kind](session, target, settings, server)
