"""The simulated embedder tells what it has read when it has, whatever becomes of a call."""

from __future__ import annotations

import asyncio

import pytest

from engine.base import EngineDeadError
from engine.config import EngineConfig, SimulatedConfig
from engine.simulated_pooling import SimulatedEmbedder


def embedder(**script: float) -> SimulatedEmbedder:
    simulated = SimulatedConfig.model_validate({"step_ms": 0, "prefill_ms_per_token": 0, **script})
    return SimulatedEmbedder(EngineConfig(model="tiny", runner="pooling", simulated=simulated))


async def test_what_was_read_is_what_the_meter_counts() -> None:
    engine, read = embedder(), list[int]()
    await engine.embed(
        "one", [await engine.render(text) for text in ("abc", "de")], None, read.append
    )
    assert sum(read) == 7
    scores = await engine.score("two", [("abc", "de"), ("abc", "f")], None, read.append)
    assert sum(read) == 7 + scores.prompt_tokens == engine.stats().prompt_tokens_total


async def test_who_is_cancelled_or_whose_engine_dies_has_read_nothing() -> None:
    read: list[int] = []
    slow = embedder(step_ms=60_000)
    call = asyncio.create_task(slow.score("one", [("abc", "de")], None, read.append))
    while not slow.stats().running:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    mortal = embedder(die_after_tokens=1)
    with pytest.raises(EngineDeadError):
        await mortal.embed("two", [await mortal.render("abc")], None, read.append)
    assert read == []
    assert slow.stats().prompt_tokens_total == mortal.stats().prompt_tokens_total == 0
