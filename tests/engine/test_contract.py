"""What every engine promises, tried on each: `engine.base.Engine` in sentences."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from msgspec import structs

from engine.base import (
    ChatMessage,
    ContextLengthError,
    Conversation,
    Engine,
    EngineDeadError,
    EngineError,
    FinishReason,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
)
from engine.config import EngineConfig, SimulatedConfig
from engine.simulated import SimulatedEngine
from engine.streaming import generate
from tests.engines import CONFIGS, Engines

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,"
TEXTS = ("plain", "  spaces  and\ttabs\n", "Größe, naïve, 東京", "🙂👩‍👩‍👧 é", "\x00\x7f")
_ids = (f"contract-{number}" for number in itertools.count())


@pytest_asyncio.fixture(loop_scope="session")
async def engine(kind: str, engines: Engines) -> AsyncIterator[Engine]:
    if kind != "simulated":
        yield await engines.use(kind)
        return
    config = EngineConfig(
        kind="simulated",
        max_model_len=CONFIGS["smollm2"].max_model_len,
        max_num_seqs=CONFIGS["smollm2"].max_num_seqs,
        simulated=SimulatedConfig(step_ms=0.1, text=" 12, 13, 14, 15, 16, 17 and 🙂👩‍👩‍👧!"),
    )
    simulated = SimulatedEngine(config)
    yield simulated
    await simulated.close()


@dataclass
class Answer:
    """All deltas of one choice."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish: list[FinishReason] = field(default_factory=list)
    stop_string: str | None = None


async def start(engine: Engine, source: Any = COUNTING, **options: Any) -> GenerateRequest:
    prompt = await engine.render(source)
    defaults = {"temperature": 0.0, "max_tokens": 16, "ignore_eos": True}
    return GenerateRequest(next(_ids), prompt, SamplingOptions(**{**defaults, **options}))


async def complete(engine: Engine, source: Any = COUNTING, **options: Any) -> list[Answer]:
    request = await start(engine, source, **options)
    answers = [Answer() for _ in range(request.sampling.n)]
    async for delta in generate(engine, request):
        answer = answers[delta.index]
        assert not answer.finish
        answer.text += delta.text
        answer.token_ids += delta.token_ids
        if delta.finish_reason is not None:
            answer.finish.append(delta.finish_reason)
            answer.stop_string = delta.stop_string
    assert all(len(answer.finish) == 1 for answer in answers)
    return answers


class Watching:
    """A sink that takes nothing; `begun` is called with the first token."""

    def __init__(self, begun: Callable[[], object] = lambda: None) -> None:
        self.over = asyncio.Event()
        self._begun = begun

    def ready(self) -> None:
        self._begun()

    def finished(self) -> None:
        self.over.set()

    def failed(self, error: EngineError) -> None:
        raise error


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def is_free(engine: Engine) -> bool:
    stats = engine.stats()
    return (stats.running, stats.waiting, stats.kv_cache_usage) == (0, 0, 0.0)


async def test_a_prompts_tokens_are_exactly_those_of_its_text(engine: Engine) -> None:
    prompt = await engine.render(COUNTING)
    assert list(prompt.token_ids) == await engine.tokenize(COUNTING)
    assert prompt.text == COUNTING


async def test_token_ids_are_a_prompt_as_they_are(engine: Engine) -> None:
    assert list((await engine.render([5, 6, 7])).token_ids) == [5, 6, 7]


async def test_a_conversations_prompt_holds_every_message(engine: Engine) -> None:
    one = await engine.render(Conversation([ChatMessage("user", "Hello")]))
    two = await engine.render(
        Conversation([ChatMessage("system", "Be brief."), ChatMessage("user", "Hello")])
    )
    assert "Hello" in await engine.detokenize(one.token_ids)
    assert "Be brief." in await engine.detokenize(two.token_ids)


async def test_a_developer_speaks_where_the_template_knows_only_a_system(engine: Engine) -> None:
    prompt = await engine.render(
        Conversation([ChatMessage("developer", "Be brief."), ChatMessage("user", "Hello")])
    )
    assert "Be brief." in await engine.detokenize(prompt.token_ids)


@pytest.mark.parametrize("source", ["", [], [-1], [10**6]])
async def test_prompts_without_tokens_or_of_unknown_tokens_are_refused(
    engine: Engine, source: Any
) -> None:
    with pytest.raises(InvalidPromptError) as refused:
        await engine.render(source)
    assert refused.value.param == "prompt"


async def test_half_a_surrogate_pair_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidPromptError):
        await engine.render("\ud83d")
    with pytest.raises(InvalidPromptError):
        await engine.render(Conversation([ChatMessage("user", "\ud83d")]))


@pytest.mark.parametrize("token_ids", [[-1], [10**9], [1, 10**30]])
async def test_token_ids_that_do_not_exist_have_no_text(
    engine: Engine, token_ids: list[int]
) -> None:
    with pytest.raises(InvalidPromptError) as refused:
        await engine.detokenize(token_ids)
    assert refused.value.param == "tokens"


@pytest.mark.parametrize("text", TEXTS)
async def test_detokenize_undoes_tokenize(engine: Engine, text: str) -> None:
    for special in (True, False):
        tokens = await engine.tokenize(text, add_special_tokens=special)
        assert await engine.detokenize(tokens) == text


async def test_long_texts_are_tokenized_as_short_ones_are(engine: Engine) -> None:
    text = "one two three four five six seven eight " * 600
    tokens = await engine.tokenize(text)
    assert await engine.detokenize(tokens) == text
    with pytest.raises(ContextLengthError) as long:
        await engine.render(text)
    assert long.value.prompt_tokens == len(tokens)


async def test_usage_is_the_sum_of_the_deltas_and_what_the_statistics_say(engine: Engine) -> None:
    before = engine.stats()
    request = await start(engine, max_tokens=9)
    got = [delta async for delta in generate(engine, request)]
    after = engine.stats()
    tokens = sum(len(delta.token_ids) for delta in got)
    assert tokens == 9
    assert after.generation_tokens_total - before.generation_tokens_total == tokens
    prompt_tokens = len(request.prompt.token_ids)
    assert after.prompt_tokens_total - before.prompt_tokens_total == prompt_tokens
    assert after.tokens_per_second > 0
    assert after.seconds_since_step is not None


async def test_a_prompt_counts_once_whatever_its_choices(engine: Engine) -> None:
    before = engine.stats()
    request = await start(engine, n=3, max_tokens=4)
    tokens = 0
    async for delta in generate(engine, request):
        tokens += len(delta.token_ids)
    after = engine.stats()
    assert after.generation_tokens_total - before.generation_tokens_total == tokens == 12
    read = after.prompt_tokens_total - before.prompt_tokens_total
    assert read == len(request.prompt.token_ids)


async def test_a_prompt_of_which_no_token_came_does_not_count(engine: Engine) -> None:
    before = engine.stats()
    submission = engine.submit(await start(engine), Watching())
    submission.abort()
    await complete(engine, [65] * 3, max_tokens=1)
    assert submission.produced == 0
    after = engine.stats()
    assert after.prompt_tokens_total - before.prompt_tokens_total == 3


async def test_a_submission_knows_what_it_has_produced_whoever_takes_it(engine: Engine) -> None:
    sink = Watching()
    submission = engine.submit(await start(engine, n=2, max_tokens=6), sink)
    await sink.over.wait()
    assert submission.produced == 12
    taken = submission.take()
    assert sum(len(delta.token_ids) for delta in taken) == submission.produced == 12
    assert submission.cached_tokens == taken[0].cached_tokens
    submission.abort()
    assert submission.produced == 12


async def test_of_those_that_wait_the_lower_priority_goes_first_and_equals_in_order(
    engine: Engine,
) -> None:
    first = [await start(engine, max_tokens=900) for _ in range(engine.info.max_num_seqs)]
    begun: list[str] = []
    later = [
        (structs.replace(await start(engine, max_tokens=2), priority=priority), name)
        for name, priority in (("c", 1), ("d", 1), ("a", 0), ("b", 0), ("e", 2))
    ]
    running = [engine.submit(request, Watching()) for request in first]
    for request, name in later:
        engine.submit(request, Watching(partial(begun.append, name)))
    await eventually(lambda: all(submission.produced for submission in running))
    running.pop().abort()
    await eventually(lambda: len(begun) == 5)
    assert begun == ["a", "b", "c", "d", "e"]
    for submission in running:
        submission.abort()
    await engine.drain()


@pytest.mark.parametrize("tokens", [1, 2, 17])
async def test_max_tokens_are_generated_and_no_more(engine: Engine, tokens: int) -> None:
    (answer,) = await complete(engine, max_tokens=tokens)
    assert len(answer.token_ids) == tokens
    assert answer.finish == ["length"]


async def test_without_max_tokens_the_context_is_filled(engine: Engine) -> None:
    length = engine.info.max_model_len - 5
    (answer,) = await complete(engine, [65] * length, max_tokens=None)
    assert len(answer.token_ids) == 5


async def test_text_is_what_the_tokens_say(engine: Engine) -> None:
    (answer,) = await complete(engine, max_tokens=20)
    assert answer.text == await engine.detokenize(answer.token_ids)


async def test_characters_of_several_tokens_are_never_split(engine: Engine) -> None:
    (answer,) = await complete(engine, "🙂👩‍👩‍👧🙂👩‍👩‍👧🙂👩‍👩‍👧🙂👩‍👩‍👧🙂👩‍👩‍👧🙂", max_tokens=60)
    assert "👩" in answer.text
    assert "\ufffd" not in answer.text
    whole = await engine.detokenize(answer.token_ids)
    assert whole.rstrip("\ufffd") == answer.text


async def test_every_choice_finishes_once(engine: Engine) -> None:
    answers = await complete(engine, n=3, max_tokens=6, temperature=1.0)
    assert [len(answer.token_ids) for answer in answers] == [6, 6, 6]


async def test_several_greedy_choices_are_the_same(engine: Engine) -> None:
    first, second = await complete(engine, n=2, max_tokens=6)
    assert first.text == second.text


async def test_text_ends_before_a_stop_string_wherever_its_tokens_end(engine: Engine) -> None:
    (whole,) = await complete(engine)
    assert " 14, 15" in whole.text
    for stop in ("4", "14, 1", ", 14, 15", " 13"):
        (answer,) = await complete(engine, stop=("never said", stop))
        assert answer.text == whole.text[: whole.text.index(stop)]
        assert answer.finish == ["stop"]
        assert answer.stop_string == stop
        assert stop in await engine.detokenize(answer.token_ids)


async def test_of_several_stop_strings_the_first_in_the_text_counts(engine: Engine) -> None:
    (whole,) = await complete(engine)
    (answer,) = await complete(engine, stop=("15", "14", "13"))
    assert answer.text == whole.text[: whole.text.index("13")]
    assert answer.stop_string == "13"


async def test_a_stop_token_ends_the_answer_and_says_nothing(engine: Engine) -> None:
    (whole,) = await complete(engine)
    stop = whole.token_ids[4]
    first = whole.token_ids.index(stop)
    (answer,) = await complete(engine, stop_token_ids=(stop,))
    assert answer.token_ids == whole.token_ids[: first + 1]
    assert answer.text == await engine.detokenize(whole.token_ids[:first])
    assert answer.finish == ["stop"]
    assert answer.stop_string is None


async def test_min_tokens_hold_back_a_stop(engine: Engine) -> None:
    (answer,) = await complete(engine, stop=("12", "13", "14"), min_tokens=14, max_tokens=40)
    assert len(answer.token_ids) > 14


async def test_a_seed_makes_the_same_answer_twice(engine: Engine) -> None:
    options = {"temperature": 1.0, "seed": 1234, "n": 2, "max_tokens": 8}
    assert await complete(engine, **options) == await complete(engine, **options)


@pytest.mark.parametrize("room", [0, -3])
async def test_prompts_as_long_as_the_context_are_refused(engine: Engine, room: int) -> None:
    length = engine.info.max_model_len - room
    with pytest.raises(ContextLengthError) as refused:
        await engine.render([65] * length)
    assert refused.value.prompt_tokens == length
    assert refused.value.max_model_len == engine.info.max_model_len


async def test_more_tokens_than_the_context_holds_are_refused(engine: Engine) -> None:
    prompt = Prompt([65] * (engine.info.max_model_len - 5))
    request = GenerateRequest(next(_ids), prompt, SamplingOptions(max_tokens=6))
    with pytest.raises(ContextLengthError) as refused:
        await anext(generate(engine, request))
    assert (refused.value.prompt_tokens, refused.value.requested_tokens) == (
        len(prompt.token_ids),
        6,
    )
    await engine.drain()


@pytest.mark.parametrize(
    ("param", "value"), [("logit_bias", {10**6: 1.0}), ("stop_token_ids", (10**6,))]
)
async def test_options_that_name_unknown_tokens_are_refused(
    engine: Engine, param: str, value: Any
) -> None:
    request = await start(engine, **{param: value})
    with pytest.raises(InvalidPromptError) as refused:
        await anext(generate(engine, request))
    assert refused.value.param == param


async def test_more_requests_than_fit_wait_and_all_finish(engine: Engine) -> None:
    count = 3 * engine.info.max_num_seqs
    tasks = [asyncio.create_task(complete(engine, max_tokens=4 + i % 5)) for i in range(count)]
    await eventually(lambda: engine.stats().waiting > 0)
    assert engine.stats().running <= engine.info.max_num_seqs
    answers = await asyncio.gather(*tasks)
    assert [len(answer.token_ids) for (answer,) in answers] == [4 + i % 5 for i in range(count)]
    await eventually(lambda: is_free(engine))


async def test_closing_the_generator_frees_everything(engine: Engine) -> None:
    deltas = generate(engine, await start(engine, max_tokens=900, n=2))
    await anext(deltas)
    assert engine.stats().running == 2
    assert engine.stats().kv_cache_usage > 0
    await deltas.aclose()
    await eventually(lambda: is_free(engine))
    produced = engine.stats().generation_tokens_total
    await complete(engine, max_tokens=2)
    assert engine.stats().generation_tokens_total == produced + 2


async def test_cancelling_the_task_frees_everything(engine: Engine) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in generate(engine, await start(engine, max_tokens=900)):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: is_free(engine))


async def test_cancelling_before_the_first_token_frees_everything(engine: Engine) -> None:
    requests = [await start(engine, max_tokens=900) for _ in range(20)]
    tasks = [asyncio.ensure_future(anext(generate(engine, request))) for request in requests]
    for task in tasks:
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5):
        await engine.drain()
    await eventually(lambda: is_free(engine))


async def test_drain_waits_for_what_runs(engine: Engine) -> None:
    deltas = generate(engine, await start(engine, max_tokens=900))
    await anext(deltas)
    drain = asyncio.create_task(engine.drain())
    await anext(deltas)
    assert not drain.done()
    await deltas.aclose()
    async with asyncio.timeout(5):
        await drain


async def test_a_living_engine_is_healthy(engine: Engine) -> None:
    await engine.check_health()
    assert engine.alive


async def test_an_engine_that_works_is_seen_to_compute(engine: Engine) -> None:
    before = engine.activity()
    assert before is not None
    assert not before.stopped
    deltas = generate(engine, await start(engine, max_tokens=900))
    await anext(deltas)

    def computed() -> bool:
        now = engine.activity()
        return now is not None and now.cpu_s > before.cpu_s

    await eventually(computed)
    await deltas.aclose()


async def test_closing_ends_what_runs_and_may_be_repeated(engine: Engine) -> None:
    deltas = generate(engine, await start(engine, max_tokens=900))
    await anext(deltas)
    died = asyncio.create_task(engine.died())
    await asyncio.gather(engine.close(), engine.close())
    await engine.close()
    await died
    assert not engine.alive
    with pytest.raises(EngineDeadError):
        async for _ in deltas:
            pass
    with pytest.raises(EngineDeadError):
        await engine.check_health()
    with pytest.raises(EngineDeadError):
        await anext(generate(engine, await start(engine)))


async def test_a_seed_gives_the_same_answer_however_the_prompt_is_computed(engine: Engine) -> None:
    # Longer than one step takes, so that it is computed in parts.
    prompt = "1234567890" * 60
    options = {"temperature": 1.0, "seed": 7, "max_tokens": 12}
    (first,) = await complete(engine, prompt, **options)
    (again,) = await complete(engine, prompt, **options)
    assert first == again
    await engine.check_health()


async def test_every_choice_of_several_ends_at_the_end_of_sequence(engine: Engine) -> None:
    question = Conversation([ChatMessage("user", "What is the capital of Japan?")])
    answers = await complete(engine, question, n=3, max_tokens=200, ignore_eos=False)
    assert [answer.finish for answer in answers] == [["stop"]] * 3


async def test_seeds_that_would_not_be_64_bit_integers_are_refused(engine: Engine) -> None:
    with pytest.raises(InvalidPromptError) as refused:
        await complete(engine, seed=2**63 - 1, n=2, temperature=1.0)
    assert refused.value.param == "seed"
    (answer,) = await complete(engine, seed=2**63 - 1, temperature=1.0, max_tokens=2)
    assert len(answer.token_ids) == 2
