from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from bench.client import Expected, Failure, Outcome, Sample, Target, complete, request_body
from bench.fake import MODEL, Script
from bench.servers.server import free_port
from tests.bench.conftest import StartFake

PROMPT = {"messages": [{"role": "user", "content": "one two three"}]}
EXPECTED = Expected(prompt_tokens=8, completion_tokens=10, stream=True, timeout_s=30)


async def ask(session: aiohttp.ClientSession, url: str, expected: Expected = EXPECTED) -> Outcome:
    target = Target(url, "chat", MODEL)
    body = request_body(target, expected, PROMPT, 0.0)
    return await complete(session, target, body, expected)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("500", "http_500"),
        ("reset", "connection"),
        ("cut", "cut_stream"),
        ("error_event", "error_event"),
        ("no_done", "missing_done"),
        ("no_usage", "missing_usage"),
        ("no_text", "no_content"),
        ("not_sse", "not_a_completion"),
        ("wrong_prompt", "wrong_prompt_tokens"),
        ("wrong_completion", "wrong_completion_tokens"),
    ],
)
async def test_each_fault_is_a_failure_of_its_kind(
    start_fake: StartFake, session: aiohttp.ClientSession, fault: str, kind: str
) -> None:
    _, url = await start_fake(Script(fault=lambda _: fault))

    outcome = await ask(session, url)

    assert isinstance(outcome, Failure)
    assert outcome.kind == kind
    assert outcome.detail
    assert outcome.after_s > 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("500", "http_500"),
        ("no_usage", "missing_usage"),
        ("not_sse", "not_a_completion"),
        ("wrong_completion", "wrong_completion_tokens"),
    ],
)
async def test_whole_answers_are_judged_alike(
    start_fake: StartFake, session: aiohttp.ClientSession, fault: str, kind: str
) -> None:
    _, url = await start_fake(Script(fault=lambda _: fault))

    outcome = await ask(session, url, replace(EXPECTED, stream=False))

    assert isinstance(outcome, Failure)
    assert outcome.kind == kind


async def test_an_answer_that_does_not_come_is_a_timeout(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script(fault=lambda _: "hang"))

    outcome = await ask(session, url, replace(EXPECTED, timeout_s=0.05))

    assert isinstance(outcome, Failure)
    assert outcome.kind == "timeout"


async def test_no_server_is_a_connection_failure(session: aiohttp.ClientSession) -> None:
    outcome = await ask(session, f"http://127.0.0.1:{free_port()}/v1")

    assert isinstance(outcome, Failure)
    assert outcome.kind == "connection"


async def test_a_streamed_answer_gives_all_times(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script(token_delay_s=0.002))

    outcome = await ask(session, url)

    assert isinstance(outcome, Sample)
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (8, 10)
    assert outcome.content_chunks == 10
    assert len(outcome.gaps_s) == 9
    assert outcome.ttft_s is not None
    assert outcome.tpot_s is not None
    assert 0 < outcome.ttft_s < outcome.e2el_s
    assert outcome.ttft_s + sum(outcome.gaps_s) <= outcome.e2el_s
    assert outcome.tpot_s == pytest.approx((outcome.e2el_s - outcome.ttft_s) / 9)


async def test_tokens_are_those_of_usage_not_of_chunks(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script(tokens_per_chunk=5))

    outcome = await ask(session, url)

    assert isinstance(outcome, Sample)
    assert outcome.completion_tokens == 10
    assert outcome.content_chunks == 2


async def test_a_whole_answer_has_no_time_to_first_token(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script())

    outcome = await ask(session, url, replace(EXPECTED, stream=False))

    assert isinstance(outcome, Sample)
    assert (outcome.ttft_s, outcome.tpot_s, outcome.gaps_s) == (None, None, ())
    assert "stream_options" not in fake.seen.bodies[0]


async def test_a_prompt_of_unknown_length_is_as_long_as_the_server_says(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script(fault=lambda number: "no_usage" if number == 2 else None))

    outcome = await ask(session, url, replace(EXPECTED, prompt_tokens=None))
    silent = await ask(session, url, replace(EXPECTED, prompt_tokens=None))

    assert isinstance(outcome, Sample)
    assert outcome.prompt_tokens == 8
    assert isinstance(silent, Failure)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_text_of_an_answer_is_kept_where_it_is_wanted(
    start_fake: StartFake, session: aiohttp.ClientSession, stream: bool
) -> None:
    _, url = await start_fake(Script())

    wanted = await ask(session, url, replace(EXPECTED, stream=stream, keep_text=True))
    unwanted = await ask(session, url, replace(EXPECTED, stream=stream))

    assert isinstance(wanted, Sample)
    assert wanted.text == " word" * 10
    assert isinstance(unwanted, Sample)
    assert unwanted.text == ""


async def test_requests_ask_for_exact_lengths_and_usage(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script())

    await ask(session, url)

    body = fake.seen.bodies[0]
    assert body["ignore_eos"] is True
    assert (body["min_tokens"], body["max_tokens"]) == (10, 10)
    assert body["stream_options"] == {"include_usage": True}


def test_a_key_is_not_shown_where_a_target_is_printed() -> None:
    assert "secret" not in repr(Target("http://localhost/v1", "chat", MODEL, "secret"))
