"""Streamed responses: every event in its place, and the same in the end as an answer that is
whole."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from engine.scripted import ScriptedCalls
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.responding import (
    CALL,
    OTHER,
    TOOLS,
    checked,
    events,
    followed,
    get,
    made,
    same,
    speaking,
    text_of,
    thinking,
    types,
)
from tests.gateway.test_hangups import request_bytes

OPENING = ["created", "in_progress"]
MESSAGE = [
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
]
REASONING = [name.replace("output_text", "reasoning_text") for name in MESSAGE]
FUNCTION = [
    "output_item.added",
    "function_call_arguments.delta",
    "function_call_arguments.done",
    "output_item.done",
]


async def test_a_stream_tells_each_step_once_in_order(gateway: LiveGateway) -> None:
    stream = await events(gateway)
    assert types(stream) == [*OPENING, *MESSAGE, "completed"]
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    created, in_progress, added, part, *_ = stream
    for opening in (created["response"], in_progress["response"]):
        checked(opening)
        assert (opening["status"], opening["output"], opening["usage"]) == ("in_progress", [], None)
    final = checked(stream[-1]["response"])
    (item,) = final["output"]
    assert added["item"] == {**item, "status": "in_progress", "content": []}
    assert part["part"] == {**item["content"][0], "text": ""}
    told = "".join(event["delta"] for event in stream if event["type"].endswith(".delta"))
    assert told == text_of(final)
    assert all(event["item_id"] == item["id"] for event in stream if "item_id" in event)
    text_done, part_done, item_done = stream[-4:-1]
    assert (text_done["text"], part_done["part"], item_done["item"]) == (
        told,
        item["content"][0],
        item,
    )


ANSWERS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("Hello.", {}, MESSAGE),
    ("Hello ☀ ü.", {"include": ["message.output_text.logprobs"], "top_logprobs": 2}, MESSAGE),
    (CALL, {"tools": TOOLS}, FUNCTION),
    (f"I see.{CALL}{OTHER}", {"tools": TOOLS}, [*MESSAGE, *FUNCTION, *FUNCTION]),
    (f"{CALL}Done.", {"tools": TOOLS}, [*FUNCTION, *MESSAGE]),
    ("2 < 3 <tool", {"tools": TOOLS}, MESSAGE),
    ("<think:Let me see.</think>Yes.", {}, [*REASONING, *MESSAGE]),
    (f"<think:Hm.</think>{CALL}", {"tools": TOOLS}, [*REASONING, *FUNCTION]),
    (
        "<think:Hm.</think> Yes.",
        {"include": ["message.output_text.logprobs"]},
        [*REASONING, *MESSAGE],
    ),
    (
        '[{"name": "weather", "parameters": {"city": ""}}, {"name": "time", "parameters": {}}]',
        {"tools": TOOLS, "tool_choice": "required"},
        [*FUNCTION, *FUNCTION],
    ),
    (
        '{"city": "Paris"}',
        {"tools": TOOLS, "tool_choice": {"type": "function", "name": "weather"}},
        FUNCTION,
    ),
]


async def test_the_last_event_holds_what_a_whole_answer_is(start_gateway: StartGateway) -> None:
    for text, fields, expected in ANSWERS:
        gateway = await speaking(start_gateway, text, start=thinking)
        for limit in (None, 7, 20):
            whole = await made(gateway, **fields, max_output_tokens=limit)
            stream = await events(gateway, **fields, max_output_tokens=limit)
            final = checked(stream[-1]["response"])
            assert same(final) == same(whole), (text, limit)
            assert stream[-1]["type"] == f"response.{final['status']}"
            done = [event["item"] for event in stream if event["type"].endswith("item.done")]
            assert done == final["output"]
            if limit is None:
                assert types(stream) == [*OPENING, *expected, "completed"], text
                assert final["status"] == "completed"
            assert await get(gateway, final["id"]) == (200, final)


async def test_reasoning_is_an_item_with_its_tokens_counted(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, "<think:Let me see.</think>Yes.", start=thinking)
    response = await made(gateway)
    reasoning, message = response["output"]
    assert reasoning["id"].startswith("rs_")
    assert (reasoning["summary"], reasoning["content"]) == (
        [],
        [{"type": "reasoning_text", "text": "Let me see."}],
    )
    assert message["content"][0]["text"] == "Yes."
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 26


async def test_logprobs_belong_to_the_text_they_come_with(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, "<think:Hm.</think> Yes.", start=thinking)
    stream = await events(gateway, include=["message.output_text.logprobs"])
    deltas = [event for event in stream if event["type"] == "response.output_text.delta"]
    for delta in deltas:
        assert delta["delta"] == "".join(entry["token"] for entry in delta["logprobs"])
    entries = [entry for delta in deltas for entry in delta["logprobs"]]
    assert stream[-1]["response"]["output"][1]["content"][0]["logprobs"] == entries
    assert "".join(entry["token"] for entry in entries) == "Yes."


async def test_a_truncated_stream_ends_incomplete(gateway: LiveGateway) -> None:
    stream = await events(gateway, max_output_tokens=3)
    assert stream[-1]["type"] == "response.incomplete"
    assert stream[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert stream[-1]["response"]["output"][0]["status"] == "incomplete"


async def test_a_call_that_is_cut_short_is_incomplete_and_no_call(
    start_gateway: StartGateway,
) -> None:
    gateway = await speaking(start_gateway, '{"city": "Paris"}')
    choice = {"type": "function", "name": "weather"}
    cut = await made(gateway, tools=TOOLS, tool_choice=choice, max_output_tokens=5)
    assert [(item["arguments"], item["status"]) for item in cut["output"]] == [
        ('{"cit', "incomplete")
    ]
    assert (await made(gateway, previous_response_id=cut["id"]))["status"] == "completed"


async def test_a_failure_in_the_middle_is_told_and_kept(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.fail_every": 1})
    stream = await events(gateway)
    error, failed = stream[-2:]
    assert (error["type"], error["code"]) == ("error", "engine_error")
    assert failed["type"] == "response.failed"
    response = checked(failed["response"])
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": error["message"]}
    assert response["output"][0]["status"] == "incomplete"
    assert text_of(response) == "".join(event.get("delta", "") for event in stream)
    await gateway.idle()
    assert await get(gateway, response["id"]) == (200, response)


@pytest.mark.parametrize("background", [False, True])
async def test_a_stream_whose_output_can_not_be_encoded_is_told_to_have_failed(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    half_a_pair = [("weather", '{"city": "\ud83d"}')]
    monkeypatch.setattr(ScriptedCalls, "calls", lambda self, text: half_a_pair)
    gateway = await speaking(start_gateway, f"I see.{CALL}")
    stream = await events(gateway, tools=TOOLS, background=background)
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    assert [event["type"] for event in stream[-2:]] == ["error", "response.failed"]
    response = checked(stream[-1]["response"])
    assert (response["status"], response["output"]) == ("failed", [])
    await gateway.idle()
    assert await get(gateway, response["id"]) == (200, response)
    if background:
        assert await followed(gateway, response["id"]) == stream


async def test_a_whole_answer_that_fails_is_an_error(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.fail_every": 1})
    body = {"model": MODEL, "input": "Hi"}
    status, answer = await gateway.post("/v1/responses", body)
    assert (status, answer["error"]["code"]) == (500, "engine_error")


@pytest.mark.parametrize("store", [True, False])
async def test_a_client_that_hangs_up_ends_its_stream(
    start_gateway: StartGateway, store: bool
) -> None:
    gateway = await start_gateway(**{"engine.simulated.stall_after_tokens": 3})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = {"model": MODEL, "input": "Hi", "stream": True, "store": store}
    writer.write(request_bytes(body, "/v1/responses"))
    await reader.readuntil(b'"delta":"T')
    writer.transport.abort()
    await gateway.idle()
    for response in await stored(gateway, 1 if store else 0):
        checked(response)
        assert response["status"] == "cancelled"
        assert text_of(response) in ("T", "Th", "The")


async def stored(gateway: LiveGateway, count: int) -> list[dict[str, Any]]:
    """The responses in the database, once there are so many."""
    from sqlalchemy import select

    from gateway.store.schema import responses

    async with asyncio.timeout(5):
        while True:
            bodies = await gateway.services.store.database.read(
                lambda connection: connection.scalars(select(responses.c.body)).all()
            )
            if len(bodies) >= count:
                return [json.loads(body) for body in bodies]


async def test_the_sdk_puts_a_stream_together(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, f"I see.{CALL}")
    async with gateway.openai.responses.stream(model=MODEL, input="Hi", tools=TOOLS) as stream:
        names = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert names[-1] == "response.completed"
    assert final.output_text == "I see."
    assert [item.type for item in final.output] == ["message", "function_call"]


async def test_a_head_request_of_a_running_stream_holds_nobody_up(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 200})
    body = {"model": MODEL, "input": "Hi", "background": True, "stream": True}
    async with gateway.http.post(f"{gateway.url}/v1/responses", json=body) as answer:
        line = b""
        while b'"id":' not in line:
            line = await answer.content.readline()
    response_id = re.findall(rb'"id":"(resp_\w+)"', line)[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"HEAD /v1/responses/%b?stream=true HTTP/1.1\r\nhost: x\r\n\r\n" % response_id)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(2):
        assert (await reader.read()).count(b"HTTP/1.1 200") == 2
    writer.close()
