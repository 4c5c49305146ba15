"""A completion that was cut anywhere goes on, in another engine perhaps, as if nothing had been."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from msgspec import structs

from engine.base import (
    Engine,
    FinishReason,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    Structure,
    TokenLogprob,
)
from engine.checks import resumable
from engine.config import EngineConfig, SimulatedConfig
from engine.simulated import SimulatedEngine
from engine.streaming import generate
from tests.engines import Engines

pytestmark = pytest.mark.asyncio(loop_scope="session")

_ids = (f"continued-{number}" for number in itertools.count())
PROMPT = Prompt([65 + number % 26 for number in range(40)])
TOKENS = 24


# What is computed as a prompt and token by token is the same in float32 only.
@pytest.fixture(
    params=[
        "simulated",
        pytest.param("tiny", marks=pytest.mark.engine),
        pytest.param("tiny-public", marks=pytest.mark.engine),
    ],
    scope="session",
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="session")
async def engine(kind: str, engines: Engines) -> AsyncIterator[Engine]:
    if kind != "simulated":
        yield await engines.use(kind)
        return
    script = SimulatedConfig(step_ms=0, prefill_ms_per_token=0, text="né 🙂, 13👩‍👩‍👧 and é!")
    simulated = SimulatedEngine(EngineConfig(kind="simulated", simulated=script))
    yield simulated
    await simulated.close()


@dataclass
class Told:
    """What one reader was told of a completion."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    stop_string: str | None = None
    cached_tokens: int = 0


def asked(**options: Any) -> GenerateRequest:
    sampling = SamplingOptions(
        **{"temperature": 0.0, "max_tokens": TOKENS, "ignore_eos": True, **options}
    )
    return GenerateRequest(next(_ids), PROMPT, sampling)


async def read(engine: Engine, request: GenerateRequest, told: Told, most: int = 10**6) -> None:
    """Read on until the end, or until so many tokens are there: then hang up."""
    deltas = generate(engine, request)
    async for delta in deltas:
        told.text += delta.text
        told.token_ids += delta.token_ids
        told.logprobs += delta.logprobs
        told.finish, told.stop_string = delta.finish_reason, delta.stop_string
        if len(told.token_ids) >= most:
            break
    await deltas.aclose()


async def whole(engine: Engine, **options: Any) -> Told:
    told = Told()
    await read(engine, asked(**options), told)
    return told


async def cut(engine: Engine, at: int, **options: Any) -> Told:
    told = Told()
    await read(engine, asked(**options), told, at)
    if told.finish is None:
        request = structs.replace(asked(**options), generated=tuple(told.token_ids))
        await read(engine, request, told)
    return told


def assert_same(one: Told, other: Told) -> None:
    assert one.text == other.text
    assert one.token_ids == other.token_ids
    assert (one.finish, one.stop_string) == (other.finish, other.stop_string)
    assert [entry.token_id for entry in one.logprobs] == [e.token_id for e in other.logprobs]
    for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
        assert len(mine.top) == len(theirs.top)


@pytest.mark.parametrize("options", [{}, {"logprobs": 2}, {"min_tokens": 20}, {"logprobs": 0}])
async def test_cut_after_any_token_it_ends_as_the_uncut_one(
    engine: Engine, options: dict[str, Any]
) -> None:
    uncut = await whole(engine, **options)
    assert len(uncut.token_ids) == TOKENS
    for at in range(1, TOKENS):
        assert_same(await cut(engine, at, **options), uncut)


async def test_a_character_goes_on_across_the_cut(engine: Engine) -> None:
    # A model that can only say parts of characters says some whole ones, and much that is none.
    parts = await engine.tokenize("é🙂日👩‍👩‍👧", add_special_tokens=False)
    options: dict[str, Any] = {"logit_bias": dict.fromkeys(parts, 100.0)}
    uncut = await whole(engine, **options)
    for at in range(1, TOKENS):
        assert_same(await cut(engine, at, **options), uncut)


@pytest.mark.parametrize("options", [{}, {"logprobs": 1}])
async def test_a_stop_string_is_found_across_the_cut(
    engine: Engine, options: dict[str, Any]
) -> None:
    text = (await whole(engine)).text
    for stop in (text[-6:-3], text[len(text) // 2 :][:4], text[-4:] + "never said"):
        uncut = await whole(engine, stop=(stop, "never said"), **options)
        for at in range(1, len(uncut.token_ids)):
            assert_same(await cut(engine, at, stop=(stop, "never said"), **options), uncut)


async def test_it_may_be_cut_more_than_once(engine: Engine) -> None:
    uncut, told = await whole(engine), Told()
    for at in (3, 7, 8, 15, TOKENS):
        request = structs.replace(asked(), generated=tuple(told.token_ids))
        await read(engine, request, told, at)
    assert_same(told, uncut)


async def test_a_cut_completion_counts_as_the_uncut_one(engine: Engine) -> None:
    def counted() -> tuple[int, int]:
        stats = engine.stats()
        return stats.prompt_tokens_total, stats.generation_tokens_total

    before = counted()
    told = Told()
    await read(engine, asked(), told, 5)
    at, middle = len(told.token_ids), counted()
    # Tokens that came after the last one that was read were generated, too.
    assert middle[0] - before[0] == len(PROMPT.token_ids)
    await read(engine, structs.replace(asked(), generated=tuple(told.token_ids)), told)
    assert counted() == (middle[0], middle[1] + TOKENS - at)


async def test_the_cache_never_holds_more_than_the_prompt(engine: Engine) -> None:
    told = Told()
    request = structs.replace(asked(), generated=tuple((await whole(engine)).token_ids[:-2]))
    async for delta in generate(engine, request):
        assert delta.cached_tokens <= len(PROMPT.token_ids)
        told.token_ids += delta.token_ids
    assert len(told.token_ids) == 2


SEEDED: dict[str, Any] = {"seed": 1, "temperature": 1.0}


@pytest.mark.parametrize(
    "options",
    [
        SEEDED,
        {"n": 2},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"prompt_logprobs": 1},
        {"structure": Structure("json_object")},
    ],
)
async def test_what_its_tokens_alone_dont_tell_is_not_continued(
    engine: Engine, options: dict[str, Any]
) -> None:
    request = structs.replace(asked(**options), generated=(65, 66))
    assert not resumable(request.sampling)
    with pytest.raises(InvalidPromptError):
        await anext(generate(engine, request))
    await engine.drain()


@pytest.mark.parametrize("generated", [(65,) * TOKENS, (10**6,), (-1,)])
async def test_what_is_complete_or_no_completion_is_not_continued(
    engine: Engine, generated: Sequence[int]
) -> None:
    with pytest.raises(InvalidPromptError):
        await anext(generate(engine, structs.replace(asked(), generated=generated)))
    await engine.drain()
