"""References within a JSON Schema: that they lead somewhere, and that following them ends. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from engine.schema_walk import Place, SchemaError, children

_UNSUPPORTED: Final = ("$dynamicRef", "$recursiveRef")
_MISSING: Final = object()


def check_references(root: object, found: Sequence[Place]) -> None:
    """`found` is every place of `root`. Raises SchemaError: a reference is remote or leads
    nowhere, or some value would have to contain itself."""
    for place in found:
        if isinstance(place.schema, dict):
            for keyword in _UNSUPPORTED:
                if keyword in place.schema:
                    raise SchemaError(place.context, f"'{keyword}' is not permitted.")
            if "$ref" in place.schema:
                _check_target(root, place)
    _check_ends(root, found)


def _check_target(root: object, place: Place) -> None:
    reference = place.schema["$ref"]
    if not isinstance(reference, str):
        raise SchemaError(place.context, "'$ref' must be a string.")
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaError(
            place.context,
            f"'$ref' must point into the schema itself ('#' or '#/…'), got {reference[:64]!r}.",
        )
    if not isinstance(_target(root, reference), (dict, bool)):
        raise SchemaError(
            place.context,
            f"reference to component {reference[:64]!r} which was not found in the schema.",
        )


def _target(root: object, reference: str) -> Any:
    node: Any = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        node = node.get(name, _MISSING) if isinstance(node, dict) else _MISSING
    return node


def _check_ends(root: object, found: Sequence[Place]) -> None:
    """A schema has a finite value where each of its needs has one that has. Counted from the
    schemas without needs upwards, so in time linear in the schema's size."""
    dependents: dict[int, list[tuple[int, int]]] = defaultdict(list)
    unmet: dict[int, set[int]] = {}
    finite: list[int] = []
    for place in found:
        node = id(place.schema)
        if node in unmet or isinstance(place.schema, bool):
            continue
        needs = _needs(root, place.schema)
        unmet[node] = set(range(len(needs)))
        for index, alternatives in enumerate(needs):
            for alternative in alternatives:
                if isinstance(alternative, bool):
                    unmet[node].discard(index)
                else:
                    dependents[id(alternative)].append((node, index))
        if not unmet[node]:
            finite.append(node)
    while finite:
        for node, index in dependents.pop(finite.pop(), ()):
            if unmet[node]:
                unmet[node].discard(index)
                if not unmet[node]:
                    finite.append(node)
    for place in found:
        if unmet.get(id(place.schema)):
            raise SchemaError(
                place.context, "the schema refers to itself without end: it has no finite value."
            )


def _needs(root: object, schema: object) -> list[list[Any]]:
    """Groups of subschemas: a value needs a value of one schema in each group."""
    if not isinstance(schema, dict):
        return []
    if "$ref" in schema:
        return [[_target(root, schema["$ref"])]]
    choices = [children(schema, keyword) for keyword in ("anyOf", "oneOf")]
    needs = [[child for _, child in branches] for branches in choices if branches]
    needs += [[child] for _, child in children(schema, "allOf")]
    if "object" in _types(schema, "properties"):
        required = schema.get("required")
        names = set(required) if isinstance(required, list) else set()
        needs += [[child] for (_, name), child in _properties(schema) if name in names]
    if "array" in _types(schema, "items") and (schema.get("minItems") or 0) > 0:
        needs += [[child] for context, child in children(schema, "items") if context == ("items",)]
    return needs


def _properties(schema: dict[str, Any]) -> list[tuple[tuple[str, str], Any]]:
    return [((path[0], path[1]), child) for path, child in children(schema, "properties")]


def _types(schema: dict[str, Any], implied_by: str) -> tuple[str, ...]:
    """The one type a value must have; () where there is a choice, as another type may end it."""
    types = schema.get("type", "object" if implied_by == "properties" else "array")
    if isinstance(types, list):
        return tuple(types) if len(types) == 1 else ()
    return (types,) if implied_by in schema else ()
