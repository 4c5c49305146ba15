"""What a body may be, as the wire models have it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import gateway.protocol
from gateway.protocol.parse import WireModel

for _module in pkgutil.iter_modules(gateway.protocol.__path__):
    importlib.import_module(f"gateway.protocol.{_module.name}")


def models(base: type[WireModel] = WireModel) -> Iterator[type[WireModel]]:
    for one in base.__subclasses__():
        yield one
        yield from models(one)


def lists(schema: Any) -> Iterator[dict[str, Any]]:
    """Those in a schema of pydantic's core."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        for inner in schema.values():
            yield from lists(inner)
    elif isinstance(schema, list | tuple):
        for inner in schema:
            yield from lists(inner)


@pytest.mark.parametrize("model", sorted(set(models()), key=str), ids=lambda model: model.__name__)
def test_a_list_of_wrong_values_is_refused_at_the_first(model: type[WireModel]) -> None:
    for one in lists(model.__pydantic_core_schema__):
        of_anything = one.get("items_schema", {"type": "any"})["type"] == "any"
        assert one.get("fail_fast") or of_anything, one
