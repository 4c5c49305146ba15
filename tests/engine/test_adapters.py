"""LoRA adapters in vLLM: what they change, what they must not share, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from engine import models
from engine.base import GenerateRequest, InvalidPromptError, SamplingOptions
from engine.streaming import generate
from engine.vllm_engine import VLLMEngine
from tests.engines import Engines
from tests.support.checkpoints import make_lora

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

PROMPT = "The quick brown fox jumps over the lazy dog. " * 8
_numbers = itertools.count()


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes adapters of the embedded model."""
    base = models.resolve("smollm2-135m-instruct").path

    def make(seed: int, **shape: float) -> str:
        return str(make_lora(base, tmp_path_factory.mktemp("lora"), seed=seed, **shape))  # type: ignore[arg-type]

    return make


@pytest_asyncio.fixture(loop_scope="session")
async def engine(engines: Engines) -> AsyncIterator[VLLMEngine]:
    """An engine with room for two adapters, and none in it."""
    found = await engines.use("lora")
    yield found
    for name in found.adapters:
        await found.remove_adapter(name)


async def answer(engine: VLLMEngine, adapter: str | None, prompt: str = PROMPT) -> tuple[str, int]:
    """The greedy answer's text, and how much of the prompt was found in the cache."""
    sampling = SamplingOptions(max_tokens=8, temperature=0, ignore_eos=True)
    rendered = await engine.render(prompt)
    request = GenerateRequest(f"lora-{next(_numbers)}", rendered, sampling, adapter)
    text, cached = "", 0
    async for delta in generate(engine, request):
        text, cached = text + delta.text, delta.cached_tokens
    return text, cached


async def test_adapters_change_the_answer_each_its_own_way_also_side_by_side(
    engine: VLLMEngine, lora: Callable[..., str]
) -> None:
    base, _ = await answer(engine, None)
    await engine.add_adapter("one", lora(1))
    await engine.add_adapter("two", lora(2))
    alone = [(await answer(engine, name))[0] for name in (None, "one", "two")]
    assert alone[0] == base
    assert len(set(alone)) == 3
    together = await asyncio.gather(*(answer(engine, name) for name in (None, "one", "two")))
    assert [text for text, _ in together] == alone
    assert engine.adapters == ("one", "two")


async def test_an_adapter_of_no_strength_answers_as_the_model(
    engine: VLLMEngine, lora: Callable[..., str]
) -> None:
    await engine.add_adapter("nothing", lora(3, strength=0.0))
    assert (await answer(engine, "nothing"))[0] == (await answer(engine, None))[0]


async def test_no_adapter_finds_what_another_computed_in_the_cache(
    engine: VLLMEngine, lora: Callable[..., str]
) -> None:
    prompt = "Of all that is cached, nothing may be shared. " * 8
    await answer(engine, None, prompt)
    assert (await answer(engine, None, prompt))[1] > 0
    path = lora(4)
    await engine.add_adapter("one", path)
    first, cached = await answer(engine, "one", prompt)
    assert cached == 0
    assert (await answer(engine, "one", prompt))[1] > 0
    # Another one of the same name, and even in the same place.
    await engine.remove_adapter("one")
    await asyncio.to_thread(
        make_lora, models.resolve("smollm2-135m-instruct").path, Path(path), seed=5
    )
    await engine.add_adapter("one", path)
    second, cached = await answer(engine, "one", prompt)
    assert cached == 0
    assert second != first


async def test_an_adapter_that_is_removed_is_known_no_more(
    engine: VLLMEngine, lora: Callable[..., str]
) -> None:
    path = lora(6)
    await engine.add_adapter("one", path)
    await engine.remove_adapter("one")
    await engine.remove_adapter("one")
    with pytest.raises(InvalidPromptError, match="not loaded"):
        await answer(engine, "one")
    for _ in range(4):  # more than there are places
        await engine.add_adapter("one", path)
        await engine.remove_adapter("one")


async def test_what_cant_be_loaded_is_refused_and_the_engine_goes_on(
    engine: VLLMEngine, lora: Callable[..., str], tmp_path: Path
) -> None:
    base, _ = await answer(engine, None)
    await engine.add_adapter("one", path := lora(7))
    broken = Path(lora(8))
    (broken / "adapter_model.safetensors").write_bytes(b"not weights")
    for name, where, said in [
        ("one", path, "loaded already"),
        ("big", lora(9, rank=64), "greater than max_lora_rank"),
        ("broken", str(broken), "can't be used"),
        ("none", str(tmp_path), "can't be used"),
    ]:
        with pytest.raises(InvalidPromptError, match=said):
            await engine.add_adapter(name, where)
    await engine.add_adapter("two", lora(10))
    with pytest.raises(InvalidPromptError, match="places for adapters are taken"):
        await engine.add_adapter("three", path)
    assert engine.adapters == ("one", "two")
    assert (await answer(engine, None))[0] == base


async def test_an_engine_without_room_for_adapters_says_so(
    engines: Engines, lora: Callable[..., str]
) -> None:
    with pytest.raises(InvalidPromptError, match=r"engine\.max_adapters"):
        await (await engines.use("smollm2")).add_adapter("one", lora(11))


async def test_both_token_paths_know_adapters(engines: Engines, lora: Callable[..., str]) -> None:
    path = lora(1)
    direct = await engines.use("lora")
    await direct.add_adapter("one", path)
    expected = (await answer(direct, "one"))[0]
    public = await engines.use("public-lora")
    await public.add_adapter("one", path)
    assert (await answer(public, "one"))[0] == expected
