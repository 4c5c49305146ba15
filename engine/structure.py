"""Which structures a client may ask for: limits a JSON Schema has to keep, and what `strict` adds.

A grammar is compiled and stepped through in the engine's own process, where what is too large or
too ambiguous costs everybody. These limits are read off the text alone; what they let through is
tried out in `engine.grammar`. Pure and iterative: no schema can exhaust the stack.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic_core import from_json

from engine.base import InvalidPromptError, SamplingOptions, Structure, Tool
from engine.schema_patterns import PatternError, check_pattern
from engine.schema_refs import check_references
from engine.schema_strict import check_strict
from engine.schema_walk import Context, Place, SchemaError, places

# The numbers of properties, enum values and characters are what OpenAI documents.
MAX_BYTES: Final = 262_144
MAX_PLACES: Final = 20_000
MAX_NESTING: Final = 64
MAX_DEPTH: Final = 32
MAX_PROPERTIES: Final = 5_000
MAX_ENUM_VALUES: Final = 1_000
MAX_CHARACTERS: Final = 120_000
MAX_BRANCHES: Final = 1_000
MAX_PATTERNS: Final = 100
MAX_LARGE_COUNTS: Final = 4
MAX_LEAST: Final = 10_000
MAX_MOST: Final = 2**31 - 1

_TYPES: Final = frozenset(
    ("string", "number", "integer", "boolean", "object", "array", "null"),
)
_RANGES: Final = (
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)
_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_OBJECTS: Final = ("properties", "patternProperties", "$defs", "definitions")
_BRANCHES: Final = ("anyOf", "oneOf", "allOf", "prefixItems")


def check_response_schema(name: str, schema: object, *, strict: bool, param: str) -> None:
    """The schema of a response format. Raises InvalidPromptError."""
    _check(schema, f"Invalid schema for response_format '{name}'", param, strict=strict)


def check_tool_parameters(tool: Tool, param: str) -> int:
    """The schema of a function's arguments; none means no arguments. Returns how many subschemas it
    has. Raises InvalidPromptError.

    Without `strict` it is only shown to the model, so it may say what no grammar can.
    """
    schema = tool.parameters
    if schema is None:
        return 0
    title = f"Invalid schema for function '{tool.name}'"
    found = _check(schema, title, param, grammar=tool.strict, strict=tool.strict)
    if schema.get("type", "object") != "object":
        raise InvalidPromptError(
            f"{title}: schema must be a JSON Schema of 'type: \"object\"', got "
            f"'type: \"{str(schema['type'])[:64]}\"'.",
            param,
        )
    return found


def check_structure(structure: Structure) -> None:
    """Whatever is to become a grammar, before it is tried. Raises InvalidPromptError."""
    if structure.kind == "json_object":
        return
    parsed = _parse(structure.text, structure.param)
    schemas = [parsed] if structure.kind == "json_schema" else list(_embedded(parsed))
    for schema in schemas:
        _check(schema, "Invalid schema", structure.param)


def check_with_structure(sampling: SamplingOptions) -> None:
    """Raise InvalidPromptError for options that contradict a structure: a grammar says itself where
    a completion ends, and then allows nothing but the end."""
    if sampling.structure is None:
        return
    for param, wanted in (
        ("min_tokens", sampling.min_tokens > 0),
        ("ignore_eos", sampling.ignore_eos),
        ("stop_token_ids", bool(sampling.stop_token_ids)),
    ):
        if wanted:
            raise InvalidPromptError(
                f"'{param}' can't be combined with structured output or strict tools.", param
            )


def _parse(text: str, param: str) -> Any:
    try:
        size = len(text.encode())
        if size > MAX_BYTES:
            raise InvalidPromptError(
                f"Invalid schema: it may have {MAX_BYTES} bytes at most, got {size}.", param
            )
        return from_json(text, allow_inf_nan=False)
    except (UnicodeEncodeError, ValueError) as error:
        raise InvalidPromptError(f"Invalid schema: it is not valid JSON: {error}", param) from None


def _embedded(tag: object) -> Iterator[Any]:
    """The schemas in a structural tag."""
    waiting = [tag]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            if "json_schema" in node:
                yield node["json_schema"]
            waiting += [value for name, value in node.items() if name != "json_schema"]


def _check(
    schema: object, title: str, param: str, *, grammar: bool = True, strict: bool = False
) -> int:
    """How many subschemas there are."""
    try:
        _check_size(schema)
        found = _places(schema)
        if grammar:
            _Totals().add(found)
            check_references(schema, found)
        if strict:
            check_strict(found)
        return len(found)
    except SchemaError as problem:
        where = "" if not problem.context and not strict else f"In context={problem.context}, "
        raise InvalidPromptError(f"{title}: {where[:512]}{problem}", param) from None


def _check_size(schema: object) -> None:
    """Of the JSON as a whole, values that are no schemas included."""
    # A value has a byte at least: what has too many isn't looked at any further.
    values = 1
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        node, level = waiting.pop()
        if isinstance(node, float) and not math.isfinite(node):
            raise SchemaError((), "its numbers must be finite.")
        if not isinstance(node, (Mapping, list, tuple)):
            continue
        if level > MAX_NESTING:
            raise SchemaError((), f"its JSON may nest {MAX_NESTING} levels deep at most.")
        inner = node.values() if isinstance(node, Mapping) else node
        values += len(inner)
        if values > MAX_BYTES:
            raise SchemaError((), f"it may have {MAX_BYTES} bytes at most.")
        waiting += [(value, level + 1) for value in inner]
    try:
        size = len(json.dumps(schema, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise SchemaError((), "its text holds half a surrogate pair.") from None
    if size > MAX_BYTES:
        raise SchemaError((), f"it may have {MAX_BYTES} bytes at most, got {size}.")


def _places(schema: object) -> list[Place]:
    found = []
    for place in places(schema):
        found.append(place)
        if len(found) > MAX_PLACES:
            raise SchemaError((), f"it may have {MAX_PLACES} subschemas at most.")
        if place.depth > MAX_DEPTH:
            raise SchemaError(place.context, f"a schema may nest {MAX_DEPTH} levels deep at most.")
        if isinstance(place.schema, dict):
            _check_type(place.schema, place.context)
        elif not isinstance(place.schema, bool):
            raise SchemaError(place.context, "a schema must be an object or a boolean.")
    return found


class _Totals:
    """What is limited over a whole schema."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_LIMITS, 0)

    def add(self, found: list[Place]) -> None:
        """Raises SchemaError."""
        for place in found:
            if isinstance(place.schema, dict):
                self._add(place.schema, place.context)

    def _add(self, schema: dict[str, Any], context: Context) -> None:
        for keyword in _OBJECTS:
            names = _typed(schema, keyword, dict, "an object", context)
            self._count("characters", sum(map(len, names)), context)
            if keyword in ("properties", "patternProperties"):
                self._count("properties", len(names), context)
        values = _typed(schema, "enum", list, "an array", context)
        if "enum" in schema and not values:
            raise SchemaError(context, "'enum' must have at least one value.")
        self._count("values", len(values), context)
        constants = [*values, schema.get("const")]
        self._count("characters", sum(len(v) for v in constants if isinstance(v, str)), context)
        for keyword in _BRANCHES:
            branches = _typed(schema, keyword, list, "an array", context)
            if keyword in schema and not branches:
                raise SchemaError(context, f"'{keyword}' must have at least one schema.")
            self._count("branches", len(branches), context)
        required = _typed(schema, "required", list, "an array", context)
        if not all(isinstance(name, str) for name in required):
            raise SchemaError(context, "'required' must be an array of strings.")
        _check_numbers(schema, context)
        self._add_patterns(schema, context)

    def _add_patterns(self, schema: dict[str, Any], context: Context) -> None:
        patterns = list(schema.get("patternProperties", ()))
        if "pattern" in schema:
            patterns.append(_typed(schema, "pattern", str, "a string", context))
        self._count("patterns", len(patterns), context)
        for pattern in patterns:
            try:
                self._count("large", check_pattern(pattern), context)
            except PatternError as problem:
                raise SchemaError(context, str(problem)) from None

    def _count(self, what: str, number: int, context: Context) -> None:
        limit, noun = _LIMITS[what]
        self._counts[what] += number
        if self._counts[what] > limit:
            raise SchemaError(context, f"a schema may have {limit} {noun} at most.")


_LIMITS: Final = {
    "properties": (MAX_PROPERTIES, "properties"),
    "values": (MAX_ENUM_VALUES, "enum values"),
    "characters": (MAX_CHARACTERS, "characters of names, enum values and constants"),
    "branches": (MAX_BRANCHES, "branches of anyOf, oneOf, allOf and prefixItems"),
    "patterns": (MAX_PATTERNS, "patterns"),
    "large": (MAX_LARGE_COUNTS, "patterns with a count above 128"),
}


def _check_type(schema: dict[str, Any], context: Context) -> None:
    if "type" not in schema:
        return
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for kind in types or [schema["type"]]:
        if not isinstance(kind, str) or kind not in _TYPES:
            raise SchemaError(
                context, f"{str(kind)[:64]!r} is not valid under any of the given schemas."
            )


def _check_numbers(schema: dict[str, Any], context: Context) -> None:
    for low, high in _RANGES:
        least, most = _natural(schema, low, context), _natural(schema, high, context)
        if least is not None and least > MAX_LEAST:
            raise SchemaError(context, f"'{low}' may be {MAX_LEAST} at most, got {least}.")
        if most is not None and most > MAX_MOST:
            raise SchemaError(context, f"'{high}' may be {MAX_MOST} at most.")
        if least is not None and most is not None and least > most:
            raise SchemaError(context, f"'{low}' {least} is greater than '{high}' {most}.")
    for keyword in _NUMBERS:
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SchemaError(context, f"'{keyword}' must be a number.")


def _natural(schema: dict[str, Any], keyword: str, context: Context) -> int | None:
    value = schema.get(keyword)
    if keyword in schema and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise SchemaError(context, f"'{keyword}' must be a non-negative integer.")
    return value


def _typed(schema: dict[str, Any], keyword: str, kind: type, noun: str, context: Context) -> Any:
    """The keyword's value; something empty of that type where the schema hasn't got it."""
    value = schema.get(keyword, kind())
    if not isinstance(value, kind):
        raise SchemaError(context, f"'{keyword}' must be {noun}.")
    return value
