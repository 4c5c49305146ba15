"""What a route tells of itself for `/openapi.json`, beyond its path and parameters.

Bodies are read and answers written without the framework's help, so it can't know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

FACTS: Final = "x-gateway"
"""Where an operation of the document has them, until it is complete."""

Model: TypeAlias = type | str
"""A type that pydantic knows, or where to find it: `openai.types:Completion`."""


def documented(
    body: Model | None = None,
    *,
    answer: Model | None = None,
    event: Model | None = None,
    example: Mapping[str, Any] | None = None,
    listed: bool = False,
    media_type: str = "application/json",
    others: Mapping[int, Model] | None = None,
    error: Model | None = None,
    keyless: bool = False,
    optional: bool = False,
) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes `body`, of which `example` is one, and gives
    `answer`, or a page of them where it is `listed`.

    `event` is the data of a stream's events. `others` are answers by status that are no error
    objects, `error` is the error object where it isn't OpenAI's. `keyless`: it is answered whoever
    asks. `optional`: the body may be left out. Models of answers are best given by name: they are
    for this document only, and OpenAI's own take a second to import.
    """
    facts = {
        "body": _name(body),
        "answer": _name(answer),
        "event": _name(event),
        "example": dict(example) if example is not None else None,
        "listed": listed,
        "media_type": media_type,
        "others": {str(status): _name(model) for status, model in (others or {}).items()},
        "error": _name(error),
        "keyless": keyless,
        "optional": optional,
    }
    return {FACTS: {name: fact for name, fact in facts.items() if fact}}


def _name(model: Model | None) -> str | None:
    if model is None or isinstance(model, str):
        return model
    return f"{model.__module__}:{model.__qualname__}"
