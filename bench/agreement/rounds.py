"""The rounds: every tool in turn, each beside a run of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from bench.agreement.judging import Pair
from bench.agreement.load import Figures, Load, PromptFields
from bench.agreement.running import run_tool
from bench.agreement.tool import Tool
from bench.errors import BenchError
from bench.reports.comparison import INTERRUPTED


async def run_rounds(
    tools: Sequence[Tool],
    ours: Tool,
    load: Load,
    prompts: Sequence[PromptFields],
    *,
    rounds: int,
    timeout_s: float,
    on_run: Callable[[str], None],
    on_pair: Callable[[Pair], None],
) -> tuple[list[Pair], str | None]:
    """Every complete pair, and what ended them early; ours warms the server up first.

    `prompts` are those of all runs of `tools`, written from the load's own seed. Nothing is sent
    twice, as the server keeps what it has seen in its prefix cache. Raises BenchError: before the
    first pair.
    """
    pairs: list[Pair] = []
    supply, seeds = iter(prompts), count(load.seed + 1)
    try:
        on_run("warm-up")
        await run_tool(ours, replace(load, seed=next(seeds)), (), timeout_s)
        for number in range(1, rounds + 1):
            for place, tool in enumerate(tools):
                part = [next(supply) for _ in range(load.requests)]
                # Who is first alternates: a machine may change its speed for both alike.
                ours_first = (number + place) % 2 == 1
                found: dict[str, Figures] = {}
                for one in (ours, tool) if ours_first else (tool, ours):
                    on_run(f"round {number} of {rounds}, {tool.name}: {one.name}")
                    its = replace(load, seed=next(seeds)) if one is ours else load
                    found[one.name] = await run_tool(one, its, part, timeout_s)
                pair = Pair(number, tool.name, ours_first, found[ours.name], found[tool.name])
                pairs.append(pair)
                on_pair(pair)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        return pairs, INTERRUPTED
    except BenchError as error:
        if not pairs:
            raise
        return pairs, str(error)
    return pairs, None
