"""The plan's KV cache against the one vLLM makes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from engine import vllm_engine
from engine.config import EngineConfig
from engine.models import kv_bytes_per_token, plan_memory, read_facts
from engine.planning.plan import Fitted
from engine.vllm_engine import VLLMEngine
from tests.engines import CONFIGS, Engines

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine]

TOLERANCE = 0.02


def compare(engine: VLLMEngine, config: EngineConfig, checkpoint: Path) -> None:
    """As many tokens fit into `kv_cache_gib` as vLLM says that fit."""
    facts = read_facts(checkpoint)
    assert config.kv_cache_gib is not None
    tokens = engine.info.kv_cache_tokens
    assert tokens is not None
    size = config.kv_cache_gib * 2**30
    assert size / tokens == pytest.approx(kv_bytes_per_token(facts, config), rel=TOLERANCE)
    cpu: Literal["cpu"] = "cpu"
    hardware = Fitted("test", cpu, 64.0, 1024)
    plan = plan_memory(facts, config, hardware)
    kept = plan.kv_needed / config.max_num_seqs / plan.kv_per_token
    assert plan.max_sequences == pytest.approx(tokens / kept, rel=TOLERANCE, abs=1)


@pytest.mark.parametrize("name", ["smollm2", "mistral"])
async def test_the_kv_cache_is_as_large_as_vllm_makes_it(engines: Engines, name: str) -> None:
    compare(await engines.use(name), CONFIGS[name], engines.path(name))


async def test_so_is_that_of_a_random_llama(engines: Engines, tmp_path: Path) -> None:
    from tests.support.checkpoints import make_llama

    checkpoint = make_llama(engines.path("smollm2"), tmp_path)
    config = CONFIGS["tiny"].model_copy(update={"model": "llama"})
    await engines.stop()
    engine = await vllm_engine.start(config, str(checkpoint))
    try:
        compare(engine, config, checkpoint)
    finally:
        await engine.close()
