from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import repeat
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Outcome, Sample
from bench.measuring.loop import LoopResult, closed_loop
from bench.measuring.openloop import open_loop
from bench.prompts.prompt import Prompt

SAMPLE = Sample(128, 128, None, ttft_s=0.5, e2el_s=2.0, gaps_s=(0.5, 1.0), content_chunks=3)


def prompts(*texts: Any) -> list[Prompt]:
    return [Prompt({"prompt": text}) for text in texts]


class Answers:
    """Answers each prompt, by its text, once it is told to; `sent` are those that came."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self._told: set[Any] = set()
        self._changed = asyncio.Condition()

    async def __call__(self, _number: int, prompt: Prompt) -> Outcome:
        async with self._changed:
            text = prompt.fields["prompt"]
            self.sent.append(text)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: text in self._told)
        return SAMPLE

    async def until(self, count: int) -> None:
        """Until so many have been sent."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.sent) == count)

    async def answer(self, *texts: Any) -> None:
        async with self._changed:
            self._told.update(texts)
            self._changed.notify_all()


class Clock:
    """What the loops take for the time, in seconds."""

    now = 0.0


def quiet(_outcome: Outcome) -> None:
    pass


async def test_an_answer_makes_room_for_the_next_request_at_once() -> None:
    answers = Answers()
    loop = asyncio.create_task(
        closed_loop(prompts("a", "b", "c"), concurrency=2, send=answers, on_outcome=quiet)
    )

    await answers.until(2)
    assert answers.sent == ["a", "b"]
    await answers.answer("b")
    await answers.until(3)
    await answers.answer("a", "c")
    result = await loop

    assert (len(result.outcomes), result.peak, result.interrupted) == (3, 2, False)


@given(st.integers(1, 9), st.integers(0, 30))
def test_every_prompt_is_sent_once_and_the_bound_holds(concurrency: int, count: int) -> None:
    sent: list[int] = []
    running = peak = 0

    async def send(number: int, prompt: Prompt) -> Outcome:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        sent.append(prompt.fields["prompt"])
        assert number == len(sent) - 1
        for _ in range(number % 4):
            await asyncio.sleep(0)
        running -= 1
        return SAMPLE

    result = asyncio.run(
        closed_loop(prompts(*range(count)), concurrency=concurrency, send=send, on_outcome=quiet)
    )

    assert sent == list(range(count))
    assert peak == result.peak <= concurrency
    assert sorted(one.number for one in result.sent) == sent


async def test_an_interrupted_loop_keeps_what_had_finished() -> None:
    answers = Answers()
    await answers.answer("x", "y")
    loop = asyncio.create_task(
        closed_loop(prompts("x", "y", "slow"), concurrency=1, send=answers, on_outcome=quiet)
    )

    await answers.until(3)
    loop.cancel()
    result = await loop

    assert result.interrupted
    assert (len(result.outcomes), result.abandoned) == (2, 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("bench.measuring.loop.perf_counter", lambda: found.now)
    return found


async def test_after_the_duration_a_closed_loop_begins_no_request(clock: Clock) -> None:
    together = asyncio.Barrier(3)

    async def send(number: int, _prompt: Prompt) -> Outcome:
        await together.wait()
        if number >= 3:
            clock.now = 0.02
        return SAMPLE

    endless = repeat(Prompt({"prompt": "again"}))
    result = await closed_loop(endless, concurrency=3, send=send, on_outcome=quiet, duration_s=0.02)

    assert len(result.outcomes) == 6
    assert result.duration_s == 0.02
    assert (result.peak, result.interrupted) == (3, False)


async def test_an_open_loop_waits_for_no_answer() -> None:
    answers = Answers()
    due = [(prompt, 0.0) for prompt in prompts(*range(50))]
    loop = asyncio.create_task(open_loop(due, send=answers, on_outcome=quiet))

    await answers.until(50)
    await answers.answer(*range(50))
    result = await loop

    assert answers.sent == list(range(50))
    assert (len(result.outcomes), result.peak, result.held) == (50, 50, 0)


async def test_requests_are_not_sent_before_they_are_due() -> None:
    start = perf_counter()
    sent: list[float] = []

    async def send(_number: int, _prompt: Prompt) -> Outcome:
        sent.append(perf_counter() - start)
        return SAMPLE

    due = (0.0, 0.01, 0.03)
    result = await open_loop(zip(prompts(*due), due, strict=True), send=send, on_outcome=quiet)

    assert all(at >= wanted for at, wanted in zip(sent, due, strict=True))
    assert all(one.late_s >= 0 for one in result.sent)
    assert result.duration_s >= 0.03


async def test_a_request_without_room_waits_and_so_do_those_after_it() -> None:
    answers = Answers()
    due = [(prompt, 0.0) for prompt in prompts("a", "b", "c")]
    loop = asyncio.create_task(open_loop(due, send=answers, on_outcome=quiet, max_in_flight=1))

    await answers.until(1)
    before = perf_counter()
    while perf_counter() - before < 0.02:  # the time that b and c wait
        await asyncio.sleep(0)
    assert answers.sent == ["a"]
    await answers.answer("a", "b", "c")
    result = await loop

    assert (result.peak, result.held) == (1, 2)
    by_number = sorted(result.sent, key=lambda one: one.number)
    assert all(one.late_s >= 0.02 for one in by_number[1:])


async def test_what_is_due_after_the_duration_is_not_sent() -> None:
    async def send(_number: int, _prompt: Prompt) -> Outcome:
        return SAMPLE

    due = [(prompt, at) for prompt, at in zip(prompts(*range(9)), range(0, 900, 100), strict=True)]
    result = await open_loop(due, send=send, on_outcome=quiet, duration_s=50.0)

    assert len(result.outcomes) == 1
    assert result.unsent == 0


async def test_what_was_due_and_had_no_room_until_the_end_is_counted(clock: Clock) -> None:
    async def send(_number: int, _prompt: Prompt) -> Outcome:
        for _ in range(9):  # until the next one waits for room
            await asyncio.sleep(0)
        clock.now = 0.05
        return SAMPLE

    times = (0.0, 0.0, 0.001, 0.002, 0.02, 0.5)
    result = await open_loop(
        zip(prompts(*range(6)), times, strict=True),
        send=send,
        on_outcome=quiet,
        max_in_flight=1,
        duration_s=0.03,
    )

    assert (len(result.outcomes), result.held, result.unsent) == (1, 1, 4)


async def test_an_interrupted_open_loop_keeps_what_had_finished() -> None:
    answers = Answers()
    await answers.answer("x")
    due: Iterator[tuple[Prompt, float]] = zip(
        prompts("x", "slow", "never"), (0.0, 0.0, 600.0), strict=True
    )
    loop = asyncio.create_task(open_loop(due, send=answers, on_outcome=quiet))

    await answers.until(2)
    loop.cancel()
    result: LoopResult = await loop

    assert result.interrupted
    assert (len(result.outcomes), result.abandoned) == (1, 1)
