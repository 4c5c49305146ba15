"""The subset of JSON Schema that OpenAI's `strict` promises to follow, and its rules. Pure.

Source: OpenAI's guide to structured outputs, "Supported schemas". What its subset has but xgrammar
0.2.8 can't hold a model to is refused as well: a promise is made only where it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.schema_walk import Place, SchemaError

MAX_STRICT_DEPTH: Final = 10
MAX_ENUM_CHARACTERS: Final = 15_000
ENUM_CHARACTERS_COUNT_FROM: Final = 250

_ANNOTATIONS: Final = frozenset(
    {
        *("$schema", "$id", "$comment", "title", "description", "default", "examples"),
        *("deprecated", "readOnly", "writeOnly"),
    }
)
_SUPPORTED: Final = frozenset(
    {
        *("type", "enum", "const", "anyOf", "$ref", "$defs", "definitions"),
        *("properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
        *("pattern", "format", "minLength", "maxLength"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    }
)
_FORMATS: Final = frozenset(
    {
        *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6"),
        *("uuid", "uri"),
    }
)
_SAYS_WHAT: Final = ("type", "$ref", "anyOf", "enum", "const")


def check_strict(found: Sequence[Place]) -> None:
    """`found` is every place of a schema. Raises SchemaError."""
    _check_root(found[0])
    for place in found:
        if not isinstance(place.schema, dict):
            if place.context[-1:] == ("additionalProperties",):
                continue  # Told of with the object it belongs to.
            raise SchemaError(place.context, "schema must be an object, not a boolean.")
        if place.depth > MAX_STRICT_DEPTH:
            raise SchemaError(
                place.context, f"a schema may nest {MAX_STRICT_DEPTH} levels deep at most."
            )
        _check_keywords(place)
        if "properties" in place.schema or _is(place.schema, "object"):
            _check_object(place)
        if _is(place.schema, "array") and "items" not in place.schema:
            raise SchemaError(place.context, "array schema missing items.")


def _check_root(root: Place) -> None:
    schema = root.schema
    kind = schema.get("type") if isinstance(schema, dict) else None
    # A reference to an object is as good: that is how recursive schemas are written.
    if kind != "object" and not (isinstance(schema, dict) and schema.get("$ref")):
        raise SchemaError(
            (), f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
        )
    if "anyOf" in schema:
        raise SchemaError((), "schema must not have 'anyOf' at the top level.")


def _check_keywords(place: Place) -> None:
    schema = place.schema
    for keyword in schema:
        if keyword not in _SUPPORTED and keyword not in _ANNOTATIONS:
            raise SchemaError(place.context, f"'{keyword[:64]}' is not permitted.")
    if not any(keyword in schema for keyword in _SAYS_WHAT):
        raise SchemaError(place.context, "schema must have a 'type' key.")
    form = schema.get("format")
    if "format" in schema and not (isinstance(form, str) and form in _FORMATS):
        raise SchemaError(
            place.context,
            f"'format' {str(form)[:64]!r} is not supported. "
            f"Supported formats are: {', '.join(sorted(_FORMATS))}.",
        )
    if ("pattern" in schema or "format" in schema) and (
        "minLength" in schema or "maxLength" in schema
    ):
        raise SchemaError(
            place.context,
            "'minLength' and 'maxLength' can't be combined with 'pattern' or 'format' here.",
        )
    values = schema.get("enum", ())
    if len(values) > ENUM_CHARACTERS_COUNT_FROM:
        characters = sum(len(value) for value in values if isinstance(value, str))
        if characters > MAX_ENUM_CHARACTERS:
            raise SchemaError(
                place.context,
                f"an enum of more than {ENUM_CHARACTERS_COUNT_FROM} values may have "
                f"{MAX_ENUM_CHARACTERS} characters at most, got {characters}.",
            )


def _check_object(place: Place) -> None:
    schema = place.schema
    if schema.get("additionalProperties") is not False:
        raise SchemaError(
            place.context, "'additionalProperties' is required to be supplied and to be false."
        )
    names, required = schema.get("properties", {}), schema.get("required", [])
    every = (
        "'required' is required to be supplied and to be an array including every key in "
        "properties."
    )
    listed = set(required)
    for name in names:
        if name not in listed:
            raise SchemaError(place.context, f"{every} Missing '{name}'.")
    for name in required:
        if name not in names:
            raise SchemaError(place.context, f"{every} Extra required key '{name}' supplied.")


def _is(schema: dict[str, Any], kind: str) -> bool:
    types = schema.get("type")
    return types == kind or (isinstance(types, list) and kind in types)
