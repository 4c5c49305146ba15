from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Endpoint, Target
from bench.errors import BenchError
from bench.fake import MODEL, FakeServer, Script
from bench.prompts.lengths import Lengths
from bench.prompts.prompt import Prompt
from bench.prompts.workload import Vocabulary, Workload, build_workload, write_drafts
from tests.bench.conftest import StartFake


async def build(
    session: aiohttp.ClientSession,
    url: str,
    *,
    endpoint: Endpoint = "chat",
    tokens: int | Lengths = 128,
    count: int = 20,
    seed: int = 0,
) -> Workload:
    target = Target(url, endpoint, MODEL)
    return await build_workload(session, target, input_tokens=tokens, count=count, seed=seed)


def first(workload: Workload, count: int = 20) -> list[Prompt]:
    return list(islice(workload.begin(0), count))


@pytest.mark.parametrize("tokenizer", [True, False])
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("tokens", [32, 128, 1000])
async def test_every_prompt_has_exactly_the_tokens_asked_for(
    start_fake: StartFake,
    session: aiohttp.ClientSession,
    tokenizer: bool,
    endpoint: Endpoint,
    tokens: int,
) -> None:
    fake, url = await start_fake(Script(tokenizer=tokenizer))

    workload = await build(session, url, endpoint=endpoint, tokens=tokens)

    prompts = first(workload)
    assert [fake.count(prompt.fields) for prompt in prompts] == [tokens] * 20
    assert {prompt.prompt_tokens for prompt in prompts} == {tokens}
    assert workload.counted_by == ("tokenize" if tokenizer else "usage")


async def test_prompts_counted_by_usage_have_not_been_seen_by_the_server(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script(tokenizer=False))

    workload = await build(session, url)

    seen = [body["messages"] for body in fake.seen.bodies]
    assert all(prompt.fields["messages"] not in seen for prompt in first(workload))
    assert len(seen) < 40


async def test_prompts_counted_by_the_tokenizer_generate_nothing(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script())

    await build(session, url)

    assert fake.seen.bodies == []


async def test_prompts_differ_from_their_first_words_on(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script())

    workload = await build(session, url, count=100)

    prompts = first(workload, 100)
    assert len({prompt.fields["messages"][0]["content"] for prompt in prompts}) == 100
    assert [message["role"] for message in prompts[0].fields["messages"]] == ["system", "user"]


async def test_a_template_without_system_messages_gets_none(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script(system_messages=False))

    workload = await build(session, url)

    prompts = [prompt.fields for prompt in first(workload)]
    assert {fake.count(prompt) for prompt in prompts} == {128}
    assert all([message["role"] for message in p["messages"]] == ["user"] for p in prompts)


async def test_the_seed_decides_the_prompts(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script())

    one, again = await build(session, url, seed=1), await build(session, url, seed=1)
    other = await build(session, url, seed=2)

    assert first(one, 50) == first(again, 50) == first(one, 50)
    assert not any(prompt in first(one, 50) for prompt in first(other, 50))


async def test_words_that_merge_with_their_neighbours_are_made_up_for(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    class Merging(FakeServer):
        """Where a prompt is long, every "the" in it is free."""

        def count(self, body: Mapping[str, Any]) -> int:
            text = json.dumps(body)
            return super().count(body) - (text.count(" the ") if len(text) > 400 else 0)

    fake, url = await start_fake(Script(), Merging)

    workload = await build(session, url, count=60)

    written, unseen = first(workload, 60), first(workload, 80)[60:]
    assert {fake.count(prompt.fields) for prompt in written} == {128}
    assert {prompt.prompt_tokens for prompt in unseen} == {None}


async def test_prompts_never_end_and_none_comes_twice(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script())

    prompts = first(await build(session, url, count=5), 200)

    assert {fake.count(prompt.fields) for prompt in prompts} == {128}
    assert len({json.dumps(prompt.fields) for prompt in prompts}) == 200
    assert {prompt.prompt_tokens for prompt in prompts} == {128}


async def test_lengths_that_are_drawn_are_exact_too(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script())

    prompts = first(await build(session, url, tokens=Lengths("uniform", 40, 60)), 50)

    assert [fake.count(prompt.fields) for prompt in prompts] == [p.prompt_tokens for p in prompts]
    assert len({prompt.prompt_tokens for prompt in prompts}) > 10
    with pytest.raises(BenchError, match="at least 17 are needed"):
        await build(session, url, tokens=Lengths("uniform", 16, 60))


async def test_too_few_tokens_for_the_template_say_how_many_are_needed(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script())

    with pytest.raises(BenchError, match="at least 17 are needed"):
        await build(session, url, tokens=16)
    assert len(first(await build(session, url, tokens=17))) == 20


@pytest.mark.parametrize("tokenizer", [True, False])
async def test_a_tokenizer_of_bytes_gets_letters(
    start_fake: StartFake, session: aiohttp.ClientSession, tokenizer: bool
) -> None:
    fake, url = await start_fake(Script(tokenizer=tokenizer, text_cost=len))

    workload = await build(session, url)

    assert {fake.count(prompt.fields) for prompt in first(workload)} == {128}
    assert len(fake.seen.bodies) < 100


async def test_a_tokenizer_without_single_token_words_or_letters_is_refused(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script(text_cost=lambda text: 2 * len(text)))

    with pytest.raises(BenchError, match="neither common English words nor letters"):
        await build(session, url)


async def test_a_refused_key_is_no_reason_to_fall_back(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script(api_key="right"))

    with pytest.raises(BenchError, match="HTTP 401"):
        await build(session, url)


@given(
    overhead=st.integers(0, 60),
    tokens=st.integers(67, 300),
    count=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_drafts_fill_what_the_template_leaves(
    overhead: int, tokens: int, count: int, seed: int
) -> None:
    words = tuple(f"w{number}" for number in range(40))
    vocabulary = Vocabulary(words, overhead, "system+user")

    drafts = write_drafts(vocabulary, input_tokens=tokens, count=count, seed=seed)

    assert [len(draft.words) for draft in drafts] == [tokens - overhead] * count
    assert len({draft.words[:6] for draft in drafts}) == count
