"""Random prompts, no two of which begin alike."""

from __future__ import annotations

import aiohttp

from bench.client import Target
from bench.measuring.facts import ServerFacts
from bench.measuring.settings import Settings
from bench.prompts.prompt import Workload
from bench.prompts.workload import build_workload


async def prepare(
    session: aiohttp.ClientSession, target: Target, settings: Settings, _server: ServerFacts
) -> Workload:
    return await build_workload(
        session,
        target,
        input_tokens=settings.input_tokens,
        count=settings.warmup + settings.requests,
        seed=settings.seed,
    )
