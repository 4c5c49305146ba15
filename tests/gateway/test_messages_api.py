"""Anthropic's Messages API over a socket, whole and streamed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.protocol.messages import MessagesRequest
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.test_bad_input import json_values
from tests.gateway.test_hangups import request_bytes
from tests.gateway.test_messages_answer import assembled, events_of

QUESTION: list[Any] = [{"role": "user", "content": "Hi"}]
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": QUESTION}
PATH = "/v1/messages"
COUNT = f"{PATH}/count_tokens"
CALL = '<tool_call>{"name": "look", "arguments": {"at": "é", "n": [1, 2]}}</tool_call>'
LOOK = {
    "name": "look",
    "description": "Look there.",
    "input_schema": {"properties": {"at": {"type": "string"}}, "required": ["at"]},
}


async def ask(gateway: LiveGateway, **fields: Any) -> dict[str, Any]:
    status, message = await gateway.post(PATH, {**BODY, **fields})
    assert status == 200, message
    return dict(message)


async def stream(gateway: LiveGateway, **fields: Any) -> list[dict[str, Any]]:
    body = {**BODY, **fields, "stream": True}
    async with gateway.http.post(gateway.url + PATH, json=body) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return events_of(await answer.read())


async def test_a_message_has_the_shape_and_counts_of_the_messages_api(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.text": "Well, well."})
    message = await ask(gateway)
    assert message.pop("id").startswith("msg_")
    _, counted = await gateway.post(COUNT, {"model": MODEL, "messages": QUESTION})
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "Well, well."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            **counted,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": len("Well, well.") + 1,
            "service_tier": "standard",
        },
    }


@pytest.mark.parametrize("tools", [[], [LOOK]])
async def test_a_stream_says_what_the_whole_message_says(
    start_gateway: StartGateway, tools: list[Any]
) -> None:
    gateway = await start_gateway(**{"engine.simulated.text": f"Well. {CALL}"})
    whole, events = await ask(gateway, tools=tools), await stream(gateway, tools=tools)
    assert [event["type"] for event in events[:2]] == ["message_start", "content_block_start"]
    streamed = assembled(events)
    assert streamed["id"].startswith("msg_")
    for message in (whole, streamed):
        del message["id"]
        for block in message["content"]:
            block.pop("id", None)
            if text := block.pop("text", None) if block["type"] == "tool_use" else None:
                block["input"] = json.loads(text)
    assert streamed == whole
    assert whole["stop_reason"] == ("tool_use" if tools else "end_turn")


async def test_a_call_is_answered_by_the_result_that_names_it(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.text": f"Well. {CALL}"})
    message = await ask(gateway, tools=[LOOK])
    _, call = message["content"]
    assert (call["name"], call["input"]) == ("look", {"at": "é", "n": [1, 2]})
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "sunny"}
    history = [
        *QUESTION,
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": [result]},
    ]
    again = await ask(gateway, tools=[LOOK], messages=history)
    assert again["usage"]["input_tokens"] > message["usage"]["input_tokens"]


async def test_a_stop_sequence_is_named_and_left_out(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.text": "one two three four"})
    stops = ["four", "two"]
    message = await ask(gateway, stop_sequences=stops)
    assert message["content"][0]["text"] == "one "
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "two")
    *_, delta, _ = await stream(gateway, stop_sequences=stops)
    assert delta["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "two"}


async def test_more_tokens_than_the_context_holds_may_be_asked_for(gateway: LiveGateway) -> None:
    message = await ask(gateway, max_tokens=64_000)
    assert message["stop_reason"] == "end_turn"
    long = [{"role": "user", "content": "x" * 500}]
    message = await ask(gateway, messages=long, max_tokens=64_000)
    assert message["stop_reason"] == "model_context_window_exceeded"
    usage = message["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == 512
    message = await ask(gateway, messages=long, max_tokens=5)
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 5)


async def test_what_tunes_other_servers_is_accepted(gateway: LiveGateway) -> None:
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h", "scope": "global"}}
    message = await ask(
        gateway,
        **cached,
        system=[{"type": "text", "text": "Be brief.", **cached}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi", **cached}]}],
        tools=[{**LOOK, **cached, "type": "custom", "strict": False}],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        temperature=0.5,
        top_p=0.9,
        top_k=10,
        metadata={"user_id": "u"},
        service_tier="auto",
        thinking={"type": "adaptive", "display": "summarized"},
        output_config={"effort": "xhigh"},
        context_management={"edits": []},
        speed="fast",
        mcp_servers=[],
        container=None,
    )
    assert message["type"] == "message"


async def test_a_question_is_counted_as_it_would_be_asked(gateway: LiveGateway) -> None:
    fields: dict[str, Any] = {
        "system": "Be brief.",
        "tools": [LOOK],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "disabled"},
    }
    status, counted = await gateway.post(COUNT, {"model": MODEL, "messages": QUESTION, **fields})
    assert status == 200
    assert counted == {"input_tokens": (await ask(gateway, **fields))["usage"]["input_tokens"]}
    bare = await gateway.post(COUNT, {"model": MODEL, "messages": QUESTION})
    assert bare[1]["input_tokens"] < counted["input_tokens"]
    history = [*QUESTION, {"role": "assistant", "content": "x" * 2000}]
    _, counted = await gateway.post(COUNT, {"model": MODEL, "messages": history})
    assert counted["input_tokens"] > 2000  # more than the context holds


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "'max_tokens'"),
    ({"max_tokens": 0}, "'max_tokens'"),
    ({"temperature": 1.5}, "'temperature'"),
    ({"top_k": -1}, "'top_k'"),
    ({"stop_sequences": "x"}, "'stop_sequences'"),
    ({"messages": []}, "'messages'"),
    ({"messages": [*QUESTION, {"role": "assistant", "content": "{"}]}, "prefill"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'image'"),
    ({"messages": [{"role": "user", "content": "x" * 600}]}, "too long: 604 tokens > 511"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "'web_search_20250305'"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "'tools[0].name'"),
    ({"tools": [{"name": "a", "input_schema": {"type": "string"}}]}, "'object'"),
    ({"tools": [LOOK, LOOK]}, "'look'"),
    ({"tool_choice": {"type": "any"}}, "'tools'"),
    ({"tools": [LOOK], "tool_choice": {"type": "tool"}}, "'name'"),
    ({"tools": [LOOK], "tool_choice": {"type": "tool", "name": "other"}}, "'other'"),
    ({"tools": [LOOK], "tool_choice": {"type": "auto", "name": "look"}}, "'name'"),
    ({"thinking": {"type": "enabled"}}, "budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "less than 'max_tokens'"),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "budget_tokens"),
    ({"mcp_servers": [{"type": "url"}]}, "'mcp_servers'"),
    ({"container": "c"}, "'container'"),
    ({"chat_template": "x"}, "'chat_template'"),
    ({"n": 2}, "'n'"),
]  # fmt: skip


async def test_what_is_wrong_is_told_in_the_words_of_the_messages_api(
    gateway: LiveGateway,
) -> None:
    for fields, named in WRONG:
        body = {key: value for key, value in {**BODY, **fields}.items() if value is not None}
        status, answer = await gateway.post(PATH, body)
        assert status == 400, fields
        assert set(answer) == {"type", "error", "request_id"}
        assert (answer["type"], answer["error"]["type"]) == ("error", "invalid_request_error")
        assert named in answer["error"]["message"], fields


REFUSED: list[tuple[str, str, bytes | None, int, str]] = [
    ("POST", PATH, json.dumps({**BODY, "model": "nope"}).encode(), 404, "not_found_error"),
    ("POST", PATH, b"{", 400, "invalid_request_error"),
    ("POST", COUNT, b"{}", 400, "invalid_request_error"),
    ("POST", PATH, b" " * 5000, 413, "request_too_large"),
    ("GET", PATH, None, 405, "invalid_request_error"),
    ("GET", COUNT, None, 405, "invalid_request_error"),
    ("POST", f"{PATH}/batches", b"{}", 404, "not_found_error"),
]


async def test_every_refusal_on_these_paths_is_an_error_of_the_messages_api(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"server.max_body_bytes": 4096})
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    for method, path, body, status, kind in REFUSED:
        async with gateway.http.request(
            method, gateway.url + path, data=body, headers=headers
        ) as answer:
            assert answer.status == status, (method, path)
            error = await answer.json()
            assert (error["type"], error["error"]["type"]) == ("error", kind)
            assert error["request_id"] == answer.headers["request-id"]


async def test_errors_elsewhere_stay_as_they_are(gateway: LiveGateway) -> None:
    status, answer = await gateway.post("/v1/messagesx", {})
    assert (status, set(answer)) == (404, {"error"})


async def test_a_key_may_come_as_x_api_key(start_gateway: StartGateway) -> None:
    key = "k" * 32
    keys = [{"name": "alice", "sha256": hashlib.sha256(key.encode()).hexdigest()}]
    gateway = await start_gateway(**{"auth.api_keys": keys})
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        for path in (PATH, COUNT):
            body = BODY if path == PATH else {"model": MODEL, "messages": QUESTION}
            assert (await gateway.post(path, body, headers=headers))[0] == 200
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer no", "x-api-key": key}):
        status, answer = await gateway.post(PATH, BODY, headers=headers)
        assert (status, answer["error"]["type"]) == (401, "authentication_error")


async def test_too_many_requests_are_told_so(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"admission.max_requests": 1, "engine.simulated.step_ms": 50})
    first = asyncio.create_task(gateway.post(PATH, BODY))
    async with asyncio.timeout(5):
        while not gateway.services.admission.inside:
            await asyncio.sleep(0.005)
    status, answer = await gateway.post(PATH, BODY)
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
    await first


async def test_an_engine_failure_mid_stream_is_an_error_event(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.fail_every": 1})
    first, *_, last = await stream(gateway)
    assert first["type"] == "message_start"
    assert last["type"] == "error"
    assert last["error"]["type"] == "api_error"
    status, answer = await gateway.post(PATH, BODY)
    assert (status, answer["error"]["type"]) == (500, "api_error")
    await gateway.idle()


async def test_a_hang_up_mid_stream_leaves_nothing_behind(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 50})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**BODY, "stream": True}, PATH))
    await reader.readuntil(b"content_block_delta")
    writer.transport.abort()
    await gateway.idle()
    stats = gateway.engine.stats()
    assert (stats.running, stats.waiting, stats.kv_cache_usage) == (0, 0, 0.0)


BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "image"])},
    optional={
        "text": st.text(max_size=5),
        "id": st.sampled_from(["a", "b"]),
        "name": st.just("look"),
        "input": st.dictionaries(st.text(max_size=3), json_values, max_size=2),
        "tool_use_id": st.sampled_from(["a", "b"]),
        "content": st.text(max_size=5) | json_values,
        "thinking": st.text(max_size=5),
        "cache_control": st.just({"type": "ephemeral"}),
    },
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": st.text(max_size=5) | st.lists(BLOCKS, max_size=3),
        }
    ),
    max_size=4,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(MessagesRequest.model_fields)), json_values)


@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(messages=MESSAGES, fields=FIELDS)
async def test_nothing_that_is_sent_makes_a_5xx(
    gateway: LiveGateway, messages: list[Any], fields: dict[str, Any]
) -> None:
    for body in ({**BODY, "max_tokens": 2, "messages": messages}, {**BODY, **fields}):
        for path in (PATH, COUNT):
            async with gateway.http.post(gateway.url + path, json=body) as answer:
                assert answer.status < 500, await answer.text()
                await answer.read()
