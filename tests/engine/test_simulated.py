"""The simulated engine's timing, batching and faults, under virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import (
    ChatMessage,
    Conversation,
    EngineDeadError,
    EngineGenerateError,
    GenerateRequest,
    Prompt,
    SamplingOptions,
    TokenDelta,
)
from engine.config import EngineConfig, SimulatedConfig
from engine.scripted import VOCAB_SIZE
from engine.simulated import SimulatedEngine
from engine.streaming import generate

_ids = (f"simulated-{number}" for number in itertools.count())


class VirtualTime:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


def make(
    time: VirtualTime | None = None, *, max_num_seqs: int = 4, **script: Any
) -> SimulatedEngine:
    config = EngineConfig(
        kind="simulated", max_num_seqs=max_num_seqs, simulated=SimulatedConfig(**script)
    )
    time = time or VirtualTime()
    return SimulatedEngine(config, clock=time.clock, sleep=time.sleep)


def request(tokens: int, prompt: int = 1, **options: Any) -> GenerateRequest:
    sampling = SamplingOptions(**{"max_tokens": tokens, "ignore_eos": True, **options})
    return GenerateRequest(next(_ids), Prompt([65] * prompt), sampling)


async def run(engine: SimulatedEngine, wanted: GenerateRequest) -> list[TokenDelta]:
    return [delta async for delta in generate(engine, wanted)]


def text_of(deltas: Sequence[TokenDelta]) -> str:
    return "".join(delta.text for delta in deltas)


async def test_a_step_takes_its_time_and_prefill_more() -> None:
    time = VirtualTime()
    engine = make(time, step_ms=10, prefill_ms_per_token=1)
    await run(engine, request(5, prompt=100))
    assert time.now == pytest.approx(0.1 + 5 * 0.01)


async def test_sequences_that_fit_share_their_steps() -> None:
    time = VirtualTime()
    engine = make(time, max_num_seqs=4, step_ms=10, prefill_ms_per_token=0)
    await asyncio.gather(*(run(engine, request(10)) for _ in range(4)))
    assert time.now == pytest.approx(0.1)


async def test_those_that_do_not_fit_wait_in_order() -> None:
    time = VirtualTime()
    engine = make(time, max_num_seqs=1, step_ms=10, prefill_ms_per_token=0)
    ended: list[int] = []

    async def one(number: int) -> None:
        await run(engine, request(5))
        ended.append(number)

    await asyncio.gather(*(one(number) for number in range(4)))
    assert ended == [0, 1, 2, 3]
    assert time.now == pytest.approx(4 * 0.05)


async def test_the_answer_ends_with_its_text() -> None:
    deltas = await run(make(text="Good bye."), request(100, ignore_eos=False))
    assert text_of(deltas) == "Good bye."
    assert deltas[-1].finish_reason == "stop"
    assert len(deltas) == len("Good bye.") + 1


async def test_ignoring_its_end_the_text_repeats() -> None:
    deltas = await run(make(text="abc"), request(8))
    assert text_of(deltas) == "abcabcab"


async def test_an_aborted_request_makes_room_at_once() -> None:
    engine = make(max_num_seqs=1)
    first = generate(engine, request(1000))
    await anext(first)
    second = asyncio.create_task(run(engine, request(3)))
    await asyncio.sleep(0)
    assert engine.stats().waiting == 1
    await first.aclose()
    assert len(await second) == 3
    assert engine.stats().kv_cache_usage == 0


async def test_it_dies_after_so_many_tokens_and_takes_all_requests_along() -> None:
    engine = make(die_after_tokens=7)
    results = await asyncio.gather(
        *(run(engine, request(100)) for _ in range(6)), return_exceptions=True
    )
    assert all(isinstance(result, EngineDeadError) for result in results)
    assert engine.stats().generation_tokens_total == 7
    with pytest.raises(EngineDeadError):
        await engine.check_health()
    with pytest.raises(EngineDeadError):
        await run(engine, request(1))
    await engine.drain()


async def test_every_third_request_fails_half_way_through() -> None:
    engine = make(fail_every=3)
    for number in range(1, 10):
        deltas = generate(engine, request(10))
        for _ in range(10 if number % 3 else 5):
            await anext(deltas)
        ending = StopAsyncIteration if number % 3 else EngineGenerateError
        with pytest.raises(ending):
            await anext(deltas)
    await engine.check_health()


async def test_a_failing_request_of_several_choices_fails_once_and_frees_all() -> None:
    engine = make(fail_every=1)
    with pytest.raises(EngineGenerateError):
        await run(engine, request(10, n=4))
    await engine.drain()
    assert engine.stats().running == 0


async def test_a_stalled_engine_is_alive_and_makes_no_step() -> None:
    time = VirtualTime()
    engine = make(time, stall_after_tokens=3)
    deltas = generate(engine, request(10))
    for _ in range(3):
        await anext(deltas)
    stuck = asyncio.ensure_future(anext(deltas))
    await asyncio.sleep(0)
    time.now += 60
    await engine.check_health()
    stats = engine.stats()
    assert stats.running == 1
    assert stats.seconds_since_step == pytest.approx(60)
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    await engine.drain()


async def test_time_without_work_is_not_time_without_progress() -> None:
    time = VirtualTime()
    engine = make(time)
    assert engine.stats().seconds_since_step is None
    await run(engine, request(2))
    time.now += 1000
    deltas = generate(engine, request(2))
    first = asyncio.ensure_future(anext(deltas))
    await asyncio.sleep(0)
    assert engine.stats().seconds_since_step == 0
    await first
    await deltas.aclose()


async def test_throughput_is_that_of_the_last_seconds() -> None:
    time = VirtualTime()
    engine = make(time, step_ms=10, prefill_ms_per_token=0)
    await run(engine, request(1000))
    assert engine.stats().tokens_per_second == pytest.approx(100, rel=0.01)
    time.now += 100
    assert engine.stats().tokens_per_second == 0


@given(text=st.text(st.characters(exclude_categories=["Cs"])), special=st.booleans())
async def test_tokens_give_back_their_text(text: str, special: bool) -> None:
    engine = make()
    tokens = await engine.tokenize(text, add_special_tokens=special)
    assert all(0 <= token < VOCAB_SIZE for token in tokens)
    assert await engine.detokenize(tokens) == text


@given(contents=st.lists(st.text(max_size=20), min_size=1, max_size=4))
async def test_a_prompt_holds_the_text_of_all_its_messages(contents: list[str]) -> None:
    prompt = await make().render(
        Conversation([ChatMessage("user", content) for content in contents])
    )
    assert await make().detokenize(prompt.token_ids) == "".join(contents)


@given(
    text=st.text("ab🙂", min_size=1, max_size=12),
    stops=st.lists(st.text("ab🙂", min_size=1, max_size=3), max_size=3),
    tokens=st.integers(1, 40),
)
async def test_stop_strings_cut_as_if_the_whole_text_were_searched(
    text: str, stops: list[str], tokens: int
) -> None:
    engine = make(text=text)
    whole = text_of(await run(engine, request(tokens)))
    cut = await run(engine, request(tokens, stop=tuple(stops)))
    # The stop string that is complete first ends the text before its beginning; of two that are
    # complete together it is the one named first.
    ends = [
        (at + len(stop), order, at)
        for order, stop in enumerate(stops)
        if (at := whole.find(stop)) >= 0
    ]
    assert text_of(cut) == (whole[: min(ends)[2]] if ends else whole)
    assert cut[-1].finish_reason == ("stop" if ends else "length")


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    aborted=st.sets(st.integers(0, 11)),
    max_num_seqs=st.integers(1, 5),
)
async def test_whatever_is_aborted_the_rest_is_whole_and_nothing_stays(
    lengths: list[int], aborted: set[int], max_num_seqs: int
) -> None:
    engine = make(max_num_seqs=max_num_seqs)

    async def one(number: int, length: int) -> int:
        deltas = generate(engine, request(length))
        got = 0
        async for _ in deltas:
            got += 1
            assert engine.stats().running <= max_num_seqs
            if number in aborted:
                break
        await deltas.aclose()
        return got

    got = await asyncio.gather(*(one(i, length) for i, length in enumerate(lengths)))
    assert got == [1 if i in aborted else length for i, length in enumerate(lengths)]
    await engine.drain()
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_cache_usage) == (0, 0, 0)
