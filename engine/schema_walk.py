"""Where the subschemas of a JSON Schema are. Pure and iterative, so that nesting can't exhaust the
stack; a schema that refers to itself is walked once, as references aren't followed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

Context = tuple[str, ...]

_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED: Final = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE: Final = (
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
)
# A branch describes the same value as the schema it is in; a definition, none by itself.
_SAME_VALUE: Final = frozenset({"anyOf", "oneOf", "allOf", "not", "if", "then", "else"})


class SchemaError(ValueError):
    """What is wrong with a schema, and the `context` it is in."""

    def __init__(self, context: Context, message: str) -> None:
        super().__init__(message)
        self.context = context


@dataclass(frozen=True, slots=True)
class Place:
    """One subschema. `context` is its path as OpenAI's messages print it; `depth` counts the
    objects and arrays around the values it describes, from 0 at the root."""

    schema: Any
    context: Context
    depth: int


def places(root: object) -> Iterator[Place]:
    """Every subschema, `root` first and parents before their children."""
    waiting = [Place(root, (), 0)]
    while waiting:
        place = waiting.pop()
        yield place
        if isinstance(place.schema, dict):
            # Last in, first out: what comes first in the schema is told of first.
            waiting += reversed(list(_children(place.schema, place)))


def children(schema: dict[str, Any], keyword: str) -> list[tuple[Context, Any]]:
    """The subschemas below one keyword, each with its path from `schema`."""
    value = schema.get(keyword)
    if keyword in _NAMED and isinstance(value, dict):
        return [((keyword, name), child) for name, child in value.items()]
    if keyword in _LISTED and isinstance(value, list):
        return [((keyword, str(index)), child) for index, child in enumerate(value)]
    if keyword in _SINGLE and isinstance(value, (dict, bool)):
        return [((keyword,), value)]
    return []


def _children(schema: dict[str, Any], place: Place) -> Iterator[Place]:
    for keyword in schema:
        if keyword in ("$defs", "definitions"):
            depth = 0
        else:
            depth = place.depth + (keyword not in _SAME_VALUE)
        for context, child in children(schema, keyword):
            yield Place(child, place.context + context, depth)
