"""Lists of objects: what may be asked of one, and its JSON. Source: the OpenAI API reference, the
`list` methods."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, get_origin

import msgspec
from pydantic import Field, StringConstraints

from gateway.protocol.parse import Wire, WireModel, parse

MAX_LIMIT = 100
MAX_ID = 256

_NUMBER = re.compile(r"-?[0-9]{1,18}")


class ListQuery(WireModel):
    """At most `limit` objects that follow the one with the id `after`."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 20
    order: Literal["asc", "desc"] = "asc"
    after: Annotated[str, StringConstraints(max_length=MAX_ID)] | None = None


def parse_query(model: type[Wire], pairs: Iterable[tuple[str, str]]) -> Wire:
    """Validate a query string's parameters, `name=value`, `name[key]=value` and `name[]=value`.
    Raises InvalidRequestError (400), also for a parameter that isn't known: a filter that were
    ignored would show too much."""
    fields: dict[str, Any] = {}
    for given, value in pairs:
        name, bracket, rest = given.partition("[")
        if not bracket or not rest.endswith("]"):
            name, rest = given, ""
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        before = fields.get(name)
        if rest != "" and rest != "]":
            fields[name] = {**(before if isinstance(before, dict) else {}), rest[:-1]: value}
        elif rest == "]" or get_origin(annotation) is list:
            fields[name] = [*(before if isinstance(before, list) else []), value]
        else:
            number = annotation is int and _NUMBER.fullmatch(value)
            fields[name] = int(value) if number else value
    return parse(model, msgspec.json.encode(fields))


def list_object(ids: Sequence[str], bodies: Sequence[bytes], *, has_more: bool) -> bytes:
    """The `list` object of objects that are JSON already."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [msgspec.Raw(body) for body in bodies],
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": has_more,
        }
    )
