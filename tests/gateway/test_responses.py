"""`POST /v1/responses`, answered whole, and the stored objects below it."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gateway.responses.context import recall
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.responding import CALL, OTHER, TOOLS, get, made, respond, speaking, text_of
from tests.gateway.test_accounts import rows
from tests.gateway.test_limits import ADMINISTRATED, key
from tests.gateway.test_stored import KEYS

SPOKEN = "The quick brown fox jumps over the lazy dog."


async def test_a_response_has_every_field_with_the_values_of_the_api(gateway: LiveGateway) -> None:
    response = await made(gateway)
    (message,) = response["output"]
    assert response["id"].startswith("resp_")
    assert message["id"].startswith("msg_")
    assert message["content"] == [
        {"type": "output_text", "annotations": [], "logprobs": [], "text": SPOKEN}
    ]
    assert (message["type"], message["role"], message["status"]) == (
        "message",
        "assistant",
        "completed",
    )
    assert response["completed_at"] >= response["created_at"]
    assert response["usage"] == {
        "input_tokens": 6,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 45,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 51,
    }
    expected = {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": MODEL,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
    }
    assert {key: response[key] for key in expected} == expected


async def test_what_was_asked_is_told_again(gateway: LiveGateway) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "thing", "schema": schema, "strict": True}
    asked: dict[str, Any] = {
        "instructions": "Be kind.",
        "max_output_tokens": 99,
        "max_tool_calls": 2,
        "metadata": {"topic": "snow"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "temperature": 0.5,
        "top_p": 0.25,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "top_logprobs": 3,
        "truncation": "auto",
        "reasoning": {"effort": "low", "summary": "auto"},
        "tool_choice": {"type": "function", "name": "weather"},
    }
    response = await made(gateway, **asked, tools=TOOLS, text={"format": form}, include=[])
    assert {key: response[key] for key in asked} == asked
    assert response["tools"] == TOOLS
    assert response["text"]["format"] == {**form, "description": None}


async def test_functions_are_strict_where_they_can_be_unless_they_say_no(
    gateway: LiveGateway,
) -> None:
    bare = {"type": "function", "name": "f", "description": None}
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"strict": False}, False),
        ({"parameters": {"type": "object"}}, False),
    ]
    for given, strict in cases:
        (tool,) = (await made(gateway, tools=[{**bare, **given}]))["tools"]
        assert tool == {**bare, "parameters": None, **given, "strict": strict}


async def test_an_answer_that_is_cut_short_is_incomplete(gateway: LiveGateway) -> None:
    response = await made(gateway, max_output_tokens=3)
    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert text_of(response) == "The"


async def test_calls_are_items_of_their_own(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, f"Let me see.{CALL}{OTHER}")
    response = await made(gateway, tools=TOOLS)
    message, first, second = response["output"]
    assert text_of(response) == "Let me see."
    assert first["id"].startswith("fc_")
    assert first["call_id"].startswith("call_")
    assert [(call["name"], call["arguments"], call["status"]) for call in (first, second)] == [
        ("weather", '{"city": "Paris"}', "completed"),
        ("time", "{}", "completed"),
    ]
    assert len({message["id"], first["id"], second["id"]}) == 3
    assert response["status"] == "completed"


async def test_logprobs_come_only_where_they_are_included(gateway: LiveGateway) -> None:
    plain = await made(gateway, top_logprobs=1)
    asked = await made(gateway, top_logprobs=1, include=["message.output_text.logprobs"])
    bare = await made(gateway, include=["message.output_text.logprobs"])
    assert plain["output"][0]["content"][0]["logprobs"] == []
    first = asked["output"][0]["content"][0]["logprobs"][0]
    certain = {"token": "T", "bytes": [84], "logprob": 0.0}
    assert first == {**certain, "top_logprobs": [certain]}
    assert len(asked["output"][0]["content"][0]["logprobs"]) == len(SPOKEN)
    assert bare["output"][0]["content"][0]["logprobs"][0] == {**certain, "top_logprobs": []}


async def test_a_response_is_retrieved_as_it_was_and_deleted(gateway: LiveGateway) -> None:
    response = await made(gateway)
    assert await get(gateway, response["id"]) == (200, response)
    deleted = await get(gateway, response["id"], "DELETE")
    assert deleted == (200, {"id": response["id"], "object": "response", "deleted": True})
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        status, answer = await get(gateway, response["id"] + path, method)
        assert status == 404
        assert answer["error"]["message"] == f"Response with id '{response['id']}' not found."


async def test_what_is_not_to_be_stored_is_not(gateway: LiveGateway) -> None:
    response = await made(gateway, store=False)
    assert response["store"] is False
    assert (await get(gateway, response["id"]))[0] == 404


async def test_nobody_sees_the_responses_of_others(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ann", "bob"):
        monkeypatch.setenv(name.upper(), name * 16)
    gateway = await start_gateway(**KEYS)
    ann, bob = (gateway.openai.with_options(api_key=name * 16) for name in ("ann", "bob"))
    response = await ann.responses.create(model=MODEL, input="Hi")
    assert (await ann.responses.retrieve(response.id)).id == response.id
    for refused in (
        bob.responses.retrieve(response.id),
        bob.responses.delete(response.id),
        bob.responses.cancel(response.id),
        bob.responses.input_items.list(response.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await refused
    with pytest.raises(openai.BadRequestError, match="not found"):
        await bob.responses.create(model=MODEL, input="Hi", previous_response_id=response.id)
    reference: Any = {"type": "item_reference", "id": response.output[0].id}
    with pytest.raises(openai.NotFoundError):
        await bob.responses.create(model=MODEL, input=[reference])


async def test_input_items_are_listed_with_ids(gateway: LiveGateway) -> None:
    given = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    ]
    response = await made(gateway, input=given)
    page = await gateway.openai.responses.input_items.list(response["id"], order="asc", limit=1)
    listed = [item async for item in page]
    assert [item.role for item in listed] == ["developer", "user"]  # type: ignore[union-attr]
    newest = await gateway.openai.responses.input_items.list(response["id"])
    assert [item.id for item in newest.data] == [item.id for item in reversed(listed)]


async def test_input_tokens_are_those_of_the_response(gateway: LiveGateway) -> None:
    fields: Any = {"instructions": "Be kind.", "tools": TOOLS}
    response = await made(gateway, **fields)
    counted = await gateway.openai.responses.input_tokens.count(model=MODEL, input="Hi", **fields)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == response["usage"]["input_tokens"]
    after = await gateway.openai.responses.input_tokens.count(
        input="And?", previous_response_id=response["id"]
    )
    following = await made(gateway, input="And?", previous_response_id=response["id"])
    assert after.input_tokens == following["usage"]["input_tokens"]
    too_long = await gateway.openai.responses.input_tokens.count(input="x" * 2000)
    assert too_long.input_tokens == 2004


REFUSED: list[tuple[dict[str, Any], int, str | None, str | None]] = [
    ({"input": None}, 400, "input", "missing_required_parameter"),
    ({"input": []}, 400, "input", "empty_array"),
    ({"model": "other"}, 404, "model", "model_not_found"),
    ({"wrong": 1}, 400, "wrong", "unknown_parameter"),
    ({"temperature": 2.5}, 400, "temperature", "decimal_above_max_value"),
    ({"tools": [{"type": "web_search"}]}, 400, "tools[0].type", "invalid_value"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, 400, "tools[0].type", "invalid_value"),
    ({"tools": [{"type": "function"}]}, 400, "tools[0].name", "missing_required_parameter"),
    ({"tools": TOOLS * 2}, 400, "tools", "invalid_value"),
    ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "web_search"}}, 400, "tool_choice.type", "invalid_value"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}},
        400,
        "tool_choice",
        "invalid_value",
    ),
    ({"text": {"format": {"type": "xml"}}}, 400, "text.format.type", "invalid_value"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x"}}},
        400,
        "text.format.schema",
        "missing_required_parameter",
    ),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"$ref": "x.json"}}}},
        400,
        "text.format.schema",
        "invalid_value",
    ),
    ({"stream_options": {}}, 400, "stream_options", "invalid_value"),
    ({"background": True, "store": False}, 400, "store", "invalid_value"),
    ({"prompt": {"id": "x"}}, 400, "prompt", "unsupported_parameter"),
    ({"input": [{"type": "item_reference"}]}, 400, "input[0].id", "missing_required_parameter"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 404, "input", None),
    ({"input": [{"type": "computer_call"}]}, 400, "input[0].type", "invalid_value"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        400,
        "input[0].content[0].type",
        "invalid_value",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]},
        400,
        "input",
        None,
    ),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
        400,
        "input",
        None,
    ),
    (
        {"input": [{"role": "user", "content": "", "id": "msg_1"}] * 2},
        400,
        "input",
        "invalid_value",
    ),
    ({"conversation": "conv_1"}, 404, "conversation", None),
    (
        {"conversation": "conv_1", "previous_response_id": "resp_1"},
        400,
        "previous_response_id",
        "mutually_exclusive_parameters",
    ),
    (
        {"previous_response_id": "resp_1"},
        400,
        "previous_response_id",
        "previous_response_not_found",
    ),
    ({"input": "x" * 600}, 400, "input", "context_length_exceeded"),
    ({"max_output_tokens": 600}, 400, "input", "context_length_exceeded"),
]


async def test_what_cannot_be_served_is_refused_with_its_name(gateway: LiveGateway) -> None:
    for fields, status, param, code in REFUSED:
        for stream in [False, True] if "stream_options" not in fields else [False]:
            found, answer = await respond(gateway, stream=stream, **fields)
            error = answer["error"]
            assert (found, error["param"]) == (status, param), answer
            assert error["type"] == "invalid_request_error"
            assert code in (None, error["code"]), answer
    await gateway.idle()


def watched(gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is recalled and rendered from now on, as it happens."""
    found: list[str] = []
    render = gateway.engine.render

    async def recalling(*args: Any) -> Any:
        found.append("recall")
        return await recall(*args)

    async def rendering(*args: Any) -> Any:
        found.append("render")
        return await render(*args)

    monkeypatch.setattr("gateway.api.responses.recall", recalling)
    monkeypatch.setattr(gateway.engine, "render", rendering)
    return found


COSTLY: list[dict[str, Any]] = [{"truncation": "auto"}, {"background": True}]


@pytest.mark.parametrize("fields", COSTLY)
async def test_nothing_is_recalled_or_rendered_for_who_is_beyond_a_limit(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    gateway = await start_gateway(**ADMINISTRATED)
    who = await key(gateway, rpm=1)
    body = {"model": MODEL, "input": "Hi", **fields}
    status, first = await gateway.post("/v1/responses", body, headers=who)
    assert status == 200
    await gateway.idle()
    done = watched(gateway, monkeypatch)
    body["previous_response_id"] = first["id"]
    status, answer = await gateway.post("/v1/responses", body, headers=who)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert done == []
    refused = (await rows(gateway))[-1]
    assert (refused.outcome, refused.status, refused.model) == ("rejected", 429, MODEL)


@pytest.mark.parametrize("fields", COSTLY)
async def test_a_response_is_one_request_of_its_key(
    start_gateway: StartGateway, fields: dict[str, Any]
) -> None:
    gateway = await start_gateway(**ADMINISTRATED)
    who = await key(gateway, rpm=2)
    body = {"model": MODEL, "input": "Hi", **fields}
    found = [(await gateway.post("/v1/responses", body, headers=who))[0] for _ in range(3)]
    assert found == [200, 200, 429]


async def test_nothing_is_recalled_or_rendered_while_the_server_drains(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = watched(gateway, monkeypatch)
    gateway.services.lifecycle.begin_drain()
    for fields in COSTLY:
        status, answer = await respond(gateway, **fields)
        assert (status, answer["error"]["code"]) == (503, "server_draining")
    assert done == []


async def test_a_synchronous_response_can_not_be_cancelled(gateway: LiveGateway) -> None:
    response = await made(gateway)
    status, answer = await get(gateway, f"{response['id']}/cancel", "POST")
    assert (status, answer["error"]["message"]) == (400, "Cannot cancel a synchronous response.")


async def test_a_parsed_response_is_what_its_type_says(start_gateway: StartGateway) -> None:
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str

    gateway = await speaking(start_gateway, '{"name": "Ann"}')
    parsed = await gateway.openai.responses.parse(model=MODEL, input="Who?", text_format=Person)
    assert parsed.output_parsed == Person(name="Ann")
