"""Chat completions over a socket, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError

from tests.gateway.conftest import MODEL, LiveGateway, StartGateway

QUESTION: list[Any] = [{"role": "user", "content": "Hi"}]


async def events(
    gateway: LiveGateway, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> list[str]:
    """The `data:` payloads of a stream, as text."""
    async with gateway.http.post(gateway.url + path, json={**body, "stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        text = (await answer.read()).decode()
    assert text.endswith("\n\n")
    return [event.removeprefix("data: ") for event in text.strip().split("\n\n")]


async def test_an_answer_has_the_shape_and_counts_of_the_openai_api(gateway: LiveGateway) -> None:
    status, answer = await gateway.chat(max_tokens=5, ignore_eos=True)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == MODEL
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    counted = (await gateway.post("/tokenize", {"messages": QUESTION}))[1]["count"]
    assert usage["prompt_tokens"] == counted
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == counted + 5


async def test_a_stream_says_what_the_whole_answer_says(gateway: LiveGateway) -> None:
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 12, "ignore_eos": True}
    _, whole = await gateway.post("/v1/chat/completions", body)
    *chunks, done = await events(gateway, body)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert {chunk["object"] for chunk in parsed} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in parsed}) == 1
    assert all("usage" not in chunk for chunk in parsed)
    deltas = [chunk["choices"][0] for chunk in parsed]
    assert deltas[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert deltas[-1]["delta"] == {}
    assert [delta["finish_reason"] for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
    text = "".join(delta["delta"].get("content", "") for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]


async def test_include_usage_adds_one_last_chunk_and_null_to_the_others(
    gateway: LiveGateway,
) -> None:
    body = {
        "model": MODEL,
        "messages": QUESTION,
        "max_tokens": 7,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    *others, last = [json.loads(event) for event in (await events(gateway, body))[:-1]]
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 7


@pytest.mark.parametrize("n", [1, 3])
async def test_continuous_usage_tells_in_every_chunk_how_many_tokens_there_are_so_far(
    gateway: LiveGateway, n: int
) -> None:
    counted = {"include_usage": True, "continuous_usage_stats": True}
    body = {
        "model": MODEL,
        "messages": QUESTION,
        "n": n,
        "max_tokens": 7,
        "ignore_eos": True,
        "stream_options": counted,
    }
    *others, last = [json.loads(event) for event in (await events(gateway, body))[:-1]]
    told = [chunk["usage"] for chunk in others]
    so_far = [usage["completion_tokens"] for usage in told]
    assert so_far == sorted(so_far)
    assert 0 < so_far[0] < so_far[-1] == last["usage"]["completion_tokens"] == 7 * n
    for usage in told:
        assert usage["prompt_tokens"] == last["usage"]["prompt_tokens"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_continuous_usage_alone_is_no_usage_as_in_vllm(gateway: LiveGateway) -> None:
    body = {
        "model": MODEL,
        "messages": QUESTION,
        "max_tokens": 2,
        "stream_options": {"continuous_usage_stats": True},
    }
    assert not [event for event in (await events(gateway, body)) if "usage" in event]


async def test_text_that_looks_like_the_end_of_an_event_is_told_as_it_is(
    start_gateway: StartGateway,
) -> None:
    text = ',"usage":null}\n\n and on'
    gateway = await start_gateway(**{"engine.simulated.text": text})
    counted = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": MODEL, "messages": QUESTION, "stream_options": counted}
    chunks = [json.loads(event) for event in (await events(gateway, body))[:-1]]
    told = [choice["delta"].get("content", "") for one in chunks for choice in one["choices"]]
    assert "".join(told) == text


async def test_n_choices_come_each_with_its_index_and_are_counted_together(
    gateway: LiveGateway,
) -> None:
    _, answer = await gateway.chat(n=3, max_tokens=4, ignore_eos=True)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 12
    body = {"model": MODEL, "messages": QUESTION, "n": 3, "max_tokens": 4, "ignore_eos": True}
    finished = [
        json.loads(event)["choices"][0]
        for event in (await events(gateway, body))[:-1]
        if json.loads(event)["choices"][0]["finish_reason"]
    ]
    assert sorted(choice["index"] for choice in finished) == [0, 1, 2]


async def test_a_stop_string_ends_the_answer_and_is_left_out(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.text": "one two three four"})
    _, answer = await gateway.chat(stop=["three"])
    assert answer["choices"][0]["message"]["content"] == "one two "
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_the_openai_sdk_chats_and_streams(gateway: LiveGateway) -> None:
    answer = await gateway.openai.chat.completions.create(
        model=MODEL, messages=QUESTION, max_completion_tokens=6
    )
    stream = await gateway.openai.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_completion_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    async for chunk in stream:
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == answer.choices[0].message.content
    assert usage == answer.usage


async def test_an_answer_of_ours_can_be_sent_back_as_history(gateway: LiveGateway) -> None:
    first = await gateway.openai.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=4
    )
    second = await gateway.openai.chat.completions.create(
        model=MODEL,
        messages=[*QUESTION, first.choices[0].message, *QUESTION],  # type: ignore[list-item]
        max_tokens=4,
    )
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


async def test_sdk_errors_are_the_ones_openai_raises(gateway: LiveGateway) -> None:
    with pytest.raises(NotFoundError) as missing:
        await gateway.openai.chat.completions.create(model="nope", messages=QUESTION)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(BadRequestError) as long:
        await gateway.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "long " * 2000}]
        )
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")


async def test_a_prompt_that_fits_but_leaves_too_little_room_is_refused(
    gateway: LiveGateway,
) -> None:
    status, answer = await gateway.chat(max_tokens=512)
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "512" in answer["error"]["message"]


async def test_an_engine_failure_mid_stream_is_an_error_event_without_done(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.fail_every": 1})
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 20, "ignore_eos": True}
    got = await events(gateway, body)
    assert got[-1] != "[DONE]"
    error = json.loads(got[-1])["error"]
    assert error["type"] == "server_error"
    assert error["code"] == "engine_error"
    await gateway.idle()


async def test_an_engine_failure_before_the_answer_is_a_500_with_an_error_object(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.fail_every": 1})
    status, answer = await gateway.chat(max_tokens=20, ignore_eos=True)
    assert status == 500
    assert answer["error"]["code"] == "engine_error"


async def test_a_dead_engine_answers_503_and_is_neither_alive_nor_ready(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **{
            "engine.simulated.die_after_tokens": 5,
            "health.restarts": 0,
            "health.exit_when_dead": False,
        }
    )
    with pytest.raises(APIStatusError) as dead:
        await gateway.openai.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=20, extra_body={"ignore_eos": True}
        )
    assert dead.value.status_code == 503
    assert dead.value.code == "engine_dead"
    assert int(dead.value.response.headers["retry-after"]) >= 1
    for path in ("/healthz", "/readyz"):
        async with gateway.http.get(gateway.url + path) as answer:
            assert answer.status == 503
            assert (await answer.json())["status"] == "dead"


async def test_tokens_share_events_where_writing_each_would_take_too_long(
    start_gateway: StartGateway,
) -> None:
    async def stream(share: float) -> tuple[int, str, int]:
        gateway = await start_gateway(
            **{"engine.simulated.step_ms": 0.1, "server.write_share": share}
        )
        chunks = await gateway.openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=300,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        events, text, tokens = 0, "", 0
        async for chunk in chunks:
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                events += bool(choice.delta.content)
                text += choice.delta.content or ""
        return events, text, tokens

    each, whole, tokens = await stream(1.0)
    fewer, same, counted = await stream(0.001)
    assert (same, counted) == (whole, tokens)
    assert fewer < each <= tokens == 300
