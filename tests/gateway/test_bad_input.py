"""Whatever is sent, the answer is an OpenAI error object that says what was expected."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import APIError
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.completions import CompletionRequest
from gateway.protocol.parse import WireModel, parse
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER_OF_A_TOOL = {"role": "tool", "tool_call_id": "call_1", "content": "5"}

WRONG_FIELDS = [
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
    ({"temperature": -1}, "temperature", "integer_below_min_value"),
    ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"n": True}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens", "invalid_type"),
    ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "invalid_value"),
    ({"min_tokens": 9, "max_tokens": 5}, "min_tokens", "invalid_value"),
    ({"presence_penalty": 3}, "presence_penalty", "integer_above_max_value"),
    ({"frequency_penalty": None, "seed": "x"}, "seed", "invalid_type"),
    ({"seed": 2**63}, "seed", "integer_above_max_value"),
    ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
    ({"stop": [""]}, "stop[0]", "string_below_min_length"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "integer_above_max_value"),
    ({"logit_bias": {"five": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": [1]}, "logit_bias", "invalid_type"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "Hi"}, "messages", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"messages": [USER, 5]}, "messages[1]", "invalid_type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "invalid_value",
    ),
    ({"model": None}, "model", "invalid_type"),
    ({"model": ""}, "model", "string_below_min_length"),
    ({"tools": []}, "tools", "empty_array"),
    ({"tools": [TOOL] * 129}, "tools", "array_above_max_length"),
    ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
    (
        {"tools": [{"type": "function", "function": {"name": "no spaces"}}]},
        "tools[0].function.name",
        "invalid_value",
    ),
    ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "any", "tools": [TOOL]}, "tool_choice", "invalid_value"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]},
        "tool_choice",
        "invalid_value",
    ),
    ({"parallel_tool_calls": True}, "parallel_tool_calls", "invalid_value"),
    ({"messages": [USER, ANSWER_OF_A_TOOL]}, "messages[1].role", "invalid_value"),
    ({"messages": [USER, CALLING, USER]}, "messages[1].tool_calls", "invalid_value"),
    ({"messages": [USER, CALLING]}, "messages[1].tool_calls", "invalid_value"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "invalid_value"),
    ({"logprobs": 1}, "logprobs", "invalid_type"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 20, "n": 128}, "logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "invalid_value",
    ),
    (
        {"response_format": {"type": "text", "json_schema": {"name": "a"}}},
        "response_format.json_schema",
        "invalid_value",
    ),
    ({"reasoning_effort": "heroic"}, "reasoning_effort", "invalid_value"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"store": "yes"}, "store", "invalid_type"),
    ({"functions": []}, "functions", "unsupported_parameter"),
    ({"audio": {}}, "audio", "unsupported_parameter"),
    ({"frobnicate": 1}, "frobnicate", "unknown_parameter"),
]  # fmt: skip

NEVER_PASSED_THROUGH = (
    "chat_template",
    "chat_template_kwargs",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "prompt_embeds",
    "priority",
    "cache_salt",
    "data_parallel_rank",
    "request_id",
)


def well_formed(answer: Any) -> dict[str, Any]:
    assert set(answer) == {"error"}
    error: dict[str, Any] = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


@pytest.mark.parametrize(("fields", "param", "code"), WRONG_FIELDS, ids=repr)
async def test_a_wrong_field_is_a_400_that_names_it(
    gateway: LiveGateway, fields: dict[str, Any], param: str, code: str
) -> None:
    status, answer = await gateway.chat(**fields)
    error = well_formed(answer)
    assert (status, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"
    assert gateway.services.admission.inside == 0


@pytest.mark.parametrize("field", NEVER_PASSED_THROUGH)
async def test_dangerous_vllm_fields_are_refused(gateway: LiveGateway, field: str) -> None:
    status, answer = await gateway.chat(**{field: "x"})
    assert status == 400
    assert well_formed(answer)["code"] == "unknown_parameter"


async def test_null_means_absent_for_every_optional_field(gateway: LiveGateway) -> None:
    required = {"model", "messages"}
    optional = dict.fromkeys(set(ChatCompletionRequest.model_fields) - required)
    status, answer = await gateway.chat(**{**optional, "max_tokens": 2})
    assert status == 200, answer


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"a":' * 5000,
     b'{"model": "test-model", "messages": [{"role": "user", "content": "\\ud800"}]}',
     b'{"model": "test-model", "messages": [{"role":"user","content":"x"}], "temperature": NaN}',
     b'{"model": "test-model", "messages": [{"role":"user","content":"x"}], "seed": 1e999}'],
    ids=lambda body: body[:24],
)  # fmt: skip
async def test_what_is_no_json_object_is_a_400(gateway: LiveGateway, body: bytes) -> None:
    status, answer = await gateway.post("/v1/chat/completions", body)
    assert status == 400
    well_formed(answer)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{}] * 300_000}]},
        {"messages": [{"role": "user", "content": [{"type": 5}] * 100}] * 2000},
        {f"x{i}": 1 for i in range(100_000)},
    ],
    ids=["parts", "messages", "names"],
)
def test_a_body_wrong_in_a_hundred_thousand_places_is_told_one(fields: dict[str, Any]) -> None:
    error = refusal(ChatCompletionRequest, json.dumps({"model": MODEL, **fields}).encode())
    assert error is not None
    assert error.status == 400
    assert len(error.body()) < 1000


async def test_a_body_that_is_not_declared_as_json_is_a_415(gateway: LiveGateway) -> None:
    status, answer = await gateway.post(
        "/v1/chat/completions", b"{}", headers={"content-type": "text/plain"}
    )
    assert status == 415
    assert well_formed(answer)["code"] == "unsupported_content_type"


async def test_a_body_over_the_limit_is_a_413_declared_or_chunked(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"server.max_body_bytes": 2048})
    big = json.dumps({"model": MODEL, "messages": [{**USER, "content": "x" * 4096}]}).encode()
    status, answer = await gateway.post("/v1/chat/completions", big)
    assert (status, well_formed(answer)["code"]) == (413, "request_too_large")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(big), 512):
            yield big[start : start + 512]

    headers = {"content-type": "application/json"}
    async with gateway.http.post(
        gateway.url + "/v1/chat/completions", data=pieces(), headers=headers
    ) as chunked:
        assert chunked.status == 413
        well_formed(await chunked.json())


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/", 404, "unknown_url"),
        ("GET", "/v1/completions", 405, "method_not_supported"),
        ("DELETE", "/v1/models", 405, "method_not_supported"),
        ("GET", "/v1/models/nope", 404, "model_not_found"),
        ("GET", "/v1/models/a/b", 404, "model_not_found"),
    ],
)
async def test_the_frameworks_own_errors_are_openai_errors_too(
    gateway: LiveGateway, method: str, path: str, status: int, code: str
) -> None:
    async with gateway.http.request(method, gateway.url + path) as answer:
        assert answer.status == status
        assert well_formed(await answer.json())["code"] == code
        assert answer.headers["x-request-id"].startswith("req_")


async def test_completions_name_their_wrong_fields_too(gateway: LiveGateway) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 100}, "n"),
        ({"prompt": "a", "echo": 1}, "echo"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({}, "prompt"),
    ]
    for fields, param in wrong:
        status, answer = await gateway.post("/v1/completions", {"model": MODEL, **fields})
        assert status == 400, fields
        assert well_formed(answer)["param"] == param


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def mostly_valid(
    model: type[ChatCompletionRequest] | type[CompletionRequest],
) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(sorted(model.model_fields))
    return st.dictionaries(names, json_values, max_size=5)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(body=mostly_valid(ChatCompletionRequest) | mostly_valid(CompletionRequest))
def test_any_json_parses_or_is_a_400(body: dict[str, Any]) -> None:
    for model in (ChatCompletionRequest, CompletionRequest):
        refused = refusal(model, json.dumps(body).encode())
        if refused is not None:
            assert refused.status == 400
            well_formed(json.loads(refused.body()))


def refusal(model: type[WireModel], body: bytes) -> APIError | None:
    try:
        parse(model, body)
    except APIError as error:
        return error
    return None


@given(body=st.binary(max_size=200))
def test_any_bytes_parse_or_are_a_400(body: bytes) -> None:
    with pytest.raises(APIError) as refused:
        parse(ChatCompletionRequest, body)
    assert refused.value.status == 400


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(fields=mostly_valid(ChatCompletionRequest))
async def test_no_field_values_make_a_5xx(gateway: LiveGateway, fields: dict[str, Any]) -> None:
    body = {"model": MODEL, "messages": [USER], "max_tokens": 2, **fields}
    async with gateway.http.post(gateway.url + "/v1/chat/completions", json=body) as answer:
        assert answer.status < 500, await answer.text()
        await answer.read()
