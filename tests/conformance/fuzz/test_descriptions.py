"""What of a description cases are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.fuzz.descriptions import openai_served, taken_fields, without_huge_arrays

Json = dict[str, Any]


def reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def answering(status: str, schema: Json) -> Json:
    return {"responses": {status: {"content": {"application/json": {"schema": schema}}}}}


OWN: Json = {
    "paths": {
        "/v1/things/{thing}": {
            "get": {},
            "post": {
                "requestBody": {"content": {"application/json": {"schema": reference("Ask")}}}
            },
        }
    },
    "components": {
        "schemas": {"Ask": {"properties": {"size": {"type": "integer"}, "n": {"type": "null"}}}}
    },
}
NAMED = ("ChatCompletionResponseMessage", "ChatCompletionMessageList", "Embedding", "ResponseUsage")


@pytest.fixture
def served(tmp_path: Path) -> Json:
    inner = {"discriminator": {"propertyName": "type"}, "properties": {"of": reference("Ring")}}
    messages = {"data": {"items": {"allOf": [reference(NAMED[0])]}}}
    schemas: Json = {
        "Thing": {"properties": {"ring": reference("Ring"), "at": {"type": "string"}}},
        "Ring": inner,
        "Error": {"type": "object"},
        "Left": {"type": "object"},
        "ChatCompletionResponseMessage": {"properties": {}, "required": ["refusal"]},
        "ChatCompletionMessageList": {"properties": messages},
        "Embedding": {"properties": {"embedding": {"type": "array"}}},
        "ResponseUsage": {"type": "object"},
    }
    schemas["Thing"]["properties"]["at"]["nullable"] = True
    every = {"anyOf": [reference(name) for name in ("Thing", *NAMED)]}
    get = answering("200", every)
    get["responses"] |= answering("404", reference("Error"))["responses"]
    document = {
        "openapi": "3.1.0",
        "info": {"title": "All", "version": "1"},
        "paths": {
            "/things/{id}": {"get": get, "delete": answering("200", reference("Left"))},
            "/things/{id}?beta=true": {"get": get},
            "/others": {"get": get},
        },
        "components": {"schemas": schemas},
    }
    file = tmp_path / "openai.yaml"
    file.write_text(yaml.safe_dump(document))
    return openai_served(file, OWN)


def test_only_what_is_served_is_left_whatever_its_parameters_are_called(served: Json) -> None:
    assert {path: list(methods) for path, methods in served["paths"].items()} == {
        "/things/{id}": ["get"]
    }


def test_what_is_referred_to_is_there_and_no_more(served: Json) -> None:
    assert served["components"]["schemas"].keys() == {"Thing", "Ring", "Error", *NAMED}


def test_nullable_is_a_type_of_its_own(served: Json) -> None:
    at = served["components"]["schemas"]["Thing"]["properties"]["at"]
    assert at == {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_an_error_is_inside_an_object_everywhere(served: Json) -> None:
    answer = served["paths"]["/things/{id}"]["get"]["responses"]["404"]
    schema = answer["content"]["application/json"]["schema"]
    assert schema["properties"] == {"error": reference("Error")}


def test_fields_that_may_only_be_null_are_not_taken() -> None:
    assert taken_fields(OWN) == {"POST /v1/things/{thing}": ["size"]}


def test_bounds_that_no_body_reaches_are_left_out() -> None:
    bounds = {"items": [{"maxItems": 10_000}, {"maxItems": 128}], "maxItems": {"type": "integer"}}
    assert without_huge_arrays(bounds) == {
        "items": [{}, {"maxItems": 128}],
        "maxItems": {"type": "integer"},
    }
