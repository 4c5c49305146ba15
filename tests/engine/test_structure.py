from __future__ import annotations

import json
from typing import Any

import pytest

from engine.base import InvalidPromptError, SamplingOptions, Structure, Tool
from engine.structure import (
    check_response_schema,
    check_structure,
    check_tool_parameters,
    check_with_structure,
)

STRING = {"type": "string"}
STRICT = {
    "type": "object",
    "properties": {
        "a": {"anyOf": [STRING, {"type": "null"}]},
        "b": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"],
            "additionalProperties": False,
        }
    },
}
URL = r"^https?://(www\.)?[-a-zA-Z0-9@:%._+~#=]{1,256}\.[a-z]{1,6}([-a-zA-Z0-9()@:%_+.~#?&/=]*)$"


def check(schema: object) -> None:
    check_structure(Structure("json_schema", json.dumps(schema), "text.format"))


def refused(schema: object) -> str:
    with pytest.raises(InvalidPromptError) as error:
        check(schema)
    assert error.value.param == "text.format"
    return str(error.value)


def strictly_refused(schema: object) -> str:
    with pytest.raises(InvalidPromptError) as error:
        check_response_schema("x", schema, strict=True, param="response_format")
    assert error.value.param == "response_format"
    return str(error.value)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = STRING
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        STRING,
        STRICT,
        {"type": ["string", "null"]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "array", "items": {"$ref": "#"}},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"$ref": "#"}}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": STRING}},
        {"type": "string", "pattern": URL},
        {"type": "string", "pattern": r"^(\d{1,3}\.){3}\d{1,3}$", "format": "ipv4"},
        {"type": "integer", "maximum": 9007199254740991},
        {"type": "array", "items": STRING, "uniqueItems": True},
        nested(30),
    ],
)
def test_ordinary_schemas_pass(schema: object) -> None:
    check(schema)


def test_any_json_object_passes() -> None:
    check_structure(Structure("json_object"))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (5, "an object or a boolean"),
        ({"type": "strin"}, "'strin' is not valid under any of the given schemas"),
        ({"type": "object", "properties": []}, "'properties' must be an object"),
        ({"type": "object", "required": "a"}, "'required' must be an array"),
        ({"type": "object", "required": [1]}, "array of strings"),
        ({"enum": []}, "at least one value"),
        ({"anyOf": []}, "at least one schema"),
        ({"anyOf": [7]}, r"In context=('anyOf', '0'), a schema must be"),
        ({"minLength": -1}, "non-negative integer"),
        ({"minItems": 1.5}, "non-negative integer"),
        ({"minItems": 10**9}, "10000 at most"),
        ({"maxLength": 10**30}, "at most"),
        ({"minLength": 5, "maxLength": 2}, "greater than"),
        ({"minimum": "1"}, "must be a number"),
        ({"$ref": "http://example.com/x"}, "must point into the schema itself"),
        ({"$ref": "other.json#/a"}, "must point into the schema itself"),
        ({"$ref": 5}, "must be a string"),
        ({"$ref": "#/$defs/x"}, "was not found in the schema"),
        ({"$dynamicRef": "#a"}, "not permitted"),
        (nested(33), "32 levels"),
        ({"const": nested(70)}, "64 levels"),
        ({"enum": [str(i) for i in range(1001)]}, "1000 enum values"),
        ({"enum": ["x" * 120_001]}, "120000 characters"),
        ({"type": "object", "properties": {f"p{i}": {} for i in range(5001)}}, "5000 properties"),
        ({"anyOf": [{}] * 1001}, "1000 branches"),
        ({"description": "x" * 300_000}, "262144 bytes"),
        ({"enum": [1] * 300_000}, "262144 bytes"),
    ],
)
def test_what_is_too_large_or_wrong_is_refused_with_the_reason(schema: object, said: str) -> None:
    assert said in refused(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": ["object"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]},
    ],
)
def test_a_schema_that_only_an_endless_value_satisfies_is_refused(schema: object) -> None:
    assert "without end" in refused(schema)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000 + "]" * 100_000, '{"minimum": NaN}', '{"a":' * 50_000, '"\ud800"'],
)
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidPromptError, match="Invalid schema: it is not valid JSON"):
        check_structure(Structure("json_schema", text))


def test_a_number_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(InvalidPromptError, match="finite"):
        check_structure(Structure("json_schema", '{"maximum": 1e400}'))


def test_a_schema_nested_a_hundred_thousand_deep_is_refused_without_exhausting_the_stack() -> None:
    schema: Any = {}
    for _ in range(100_000):
        schema = {"items": schema}
    tool = Tool("f", parameters=schema)
    with pytest.raises(InvalidPromptError, match="64 levels"):
        check_tool_parameters(tool, "tools")


@pytest.mark.parametrize(
    "pattern",
    [
        "((.{0,100}){0,100}){0,100}",
        "(x{1,1000}){1,1000}",
        ".{0,200}.{0,200}",
        ".*.{0,200}",
        "(a|b|ab).{0,200}",
        "(.*){500}",
        "(.{1,200})+",
        ".{1,200}+",
        "x{200}{3}",
        "a{99999999999999999999}",
        "a{ 1, 300 }",
        "[](.{0,100}){0,100}]",
        "[^](.{0,100}){0,100}]",
        "([])].{0,200}){0,100}",
        "a{",
        "a)",
        "[a",
        "a\\",
        "(" * 40 + ")" * 40,
        "a" * 3000,
        "a?a?a?a?.{0,200}",
    ],
)
def test_a_pattern_that_could_stall_the_engine_is_refused(pattern: str) -> None:
    assert "'pattern'" in refused({"type": "string", "pattern": pattern})
    assert "'pattern'" in refused({"type": "object", "patternProperties": {pattern: STRING}})


@pytest.mark.parametrize(
    "pattern",
    ["^[a-z]{1,200}$", "^[]]{3}$".replace("[]]", r"[\]]"), "(a+)+$", r"^\{.*\}$", "[^{}()]+"],
)
def test_a_pattern_with_a_simple_count_passes(pattern: str) -> None:
    check({"type": "string", "pattern": pattern})


def test_only_a_few_patterns_may_count_far() -> None:
    many = {f"p{i}": {"type": "string", "pattern": "^.{1,200}$"} for i in range(5)}
    assert "4 patterns with a count above 128" in refused({"properties": many})


def test_the_schemas_within_a_structural_tag_are_checked() -> None:
    content = {"type": "json_schema", "json_schema": {"$ref": "#"}}
    tag = {"type": "structural_tag", "format": {"type": "tag", "begin": "<", "content": content}}
    with pytest.raises(InvalidPromptError, match="without end") as error:
        check_structure(Structure("structural_tag", json.dumps(tag), "tools"))
    assert error.value.param == "tools"
    content["json_schema"] = STRICT
    check_structure(Structure("structural_tag", json.dumps(tag), "tools"))


def test_a_strict_schema_that_keeps_the_rules_passes() -> None:
    check_response_schema("x", STRICT, strict=True, param="response_format")
    check_tool_parameters(Tool("f", parameters=STRICT, strict=True), "tools")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (
            {"type": "array", "items": STRING},
            "schema must be a JSON Schema of 'type: \"object\"', got 'type: \"array\"'.",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "object"}}},
            "In context=(), 'additionalProperties' is required to be supplied and to be false.",
        ),
        (
            STRICT | {"properties": STRICT["properties"] | {"a": {"type": "object"}}},  # type: ignore[operator]
            "In context=('properties', 'a'), 'additionalProperties' is required to be supplied "
            "and to be false.",
        ),
        (
            STRICT | {"required": ["a"]},
            "In context=(), 'required' is required to be supplied and to be an array including "
            "every key in properties. Missing 'b'.",
        ),
        (STRICT | {"required": ["a", "b", "c"]}, "Extra required key 'c' supplied."),
        (STRICT | {"anyOf": [{"type": "object"}]}, "'anyOf' at the top level"),
        (STRICT | {"allOf": [STRING]}, "In context=(), 'allOf' is not permitted."),
        (STRICT | {"$defs": {"node": {}}}, "schema must have a 'type' key."),
        (STRICT | {"$defs": {"node": {"type": "array"}}}, "array schema missing items."),
        (STRICT | {"$defs": {"node": True}}, "not a boolean"),
        (
            STRICT | {"$defs": {"node": {"type": "string", "format": "colour"}}},
            "'format' 'colour' is not supported.",
        ),
        (
            STRICT | {"$defs": {"node": {"type": "string", "pattern": "a", "maxLength": 3}}},
            "can't be combined",
        ),
        (STRICT | {"$defs": {"node": nested(11)}}, "10 levels"),
        (
            STRICT | {"$defs": {"node": {"enum": ["x" * 100 + str(i) for i in range(251)]}}},
            "15000 characters",
        ),
    ],
)
def test_what_strict_forbids_is_refused_in_openais_words(schema: object, said: str) -> None:
    message = strictly_refused(schema)
    assert message.startswith("Invalid schema for response_format 'x': ")
    assert said in message


@pytest.mark.parametrize("form", [[], {}, None, 5])
def test_a_format_that_is_no_string_is_refused(form: object) -> None:
    schema = STRICT | {"properties": {"a": {"type": "string", "format": form}}, "required": ["a"]}
    assert "'format'" in strictly_refused(schema)


def test_a_function_is_named_in_what_is_wrong_with_its_schema() -> None:
    tool = Tool("f", parameters={"type": "object"}, strict=True)
    with pytest.raises(InvalidPromptError, match=r"^Invalid schema for function 'f': ") as error:
        check_tool_parameters(tool, "tools[0].function.parameters")
    assert error.value.param == "tools[0].function.parameters"


def test_a_function_that_is_not_strict_may_say_what_no_grammar_can() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "http://example.com", "pattern": "a{"}},
    }
    check_tool_parameters(Tool("f", parameters=schema), "tools")
    check_tool_parameters(Tool("f"), "tools")
    with pytest.raises(InvalidPromptError, match="'objec' is not valid"):
        check_tool_parameters(Tool("f", parameters={"type": "objec"}), "tools")


def test_a_functions_arguments_are_an_object() -> None:
    with pytest.raises(InvalidPromptError, match="got 'type: \"string\"'"):
        check_tool_parameters(Tool("f", parameters={"type": "string"}), "tools")
    check_tool_parameters(Tool("f", parameters={"properties": {"a": {"type": "string"}}}), "tools")


@pytest.mark.parametrize(
    ("param", "options"),
    [
        ("min_tokens", {"min_tokens": 1}),
        ("ignore_eos", {"ignore_eos": True}),
        ("stop_token_ids", {"stop_token_ids": (5,)}),
    ],
)
def test_options_that_contradict_a_grammar_are_refused(param: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidPromptError, match=param) as error:
        check_with_structure(SamplingOptions(structure=Structure("json_object"), **options))
    assert error.value.param == param
    check_with_structure(SamplingOptions(**options))
