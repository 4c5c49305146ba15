"""The OpenAPI document: what the framework knows of routes, and what they tell of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from pkgutil import resolve_name
from typing import Any, Final, Protocol

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import TaggedUnionSchema

from gateway.api.schemas import FACTS
from gateway.protocol.answers import ErrorResponse, Page

Json = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_ERROR: Final = f"{ErrorResponse.__module__}:{ErrorResponse.__qualname__}"
# Every error of any operation; those of WITH_BODY only where there is one to be wrong.
_ERRORS: Final = {
    400: "The request is wrong; the message says what was expected.",
    401: "No API key, or not one of this server's.",
    403: "The API key may not use this endpoint.",
    404: "No such path, model or object.",
    405: "Another method of this path.",
    408: "The request took too long to arrive, or to be answered in the time it allowed.",
    409: "It is in the way of what is there already.",
    413: "The body is too large.",
    415: "The body is not JSON, or is compressed.",
    429: "There is capacity, but it is taken: retry later.",
    431: "The headers are too large.",
    500: "The server or its engine failed.",
    503: "No capacity: the model is loading, the server is draining, or its engine has stopped.",
}
_WITH_BODY: Final = frozenset({413, 415, 429})
_WITH_KEY: Final = frozenset({401, 403})
_RETRYABLE: Final = frozenset({429, 503})
_RETRY_HEADERS: Final = {
    "retry-after": {"description": "Seconds.", "schema": {"type": "integer"}},
    "retry-after-ms": {"description": "Milliseconds.", "schema": {"type": "integer"}},
}


class DirectEndpoint(Protocol):
    """An endpoint below the framework. `documentation` is what `documented` gave."""

    path: str
    summary: str
    documentation: Mapping[str, Any]


def document(
    app: FastAPI,
    endpoints: Sequence[DirectEndpoint],
    *,
    model: str,
    keys: Callable[[], bool],
) -> Json:
    """The whole document. `model` is put into examples; `keys` says whether callers need one."""
    found: Json = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for endpoint in endpoints:
        found["paths"].setdefault(endpoint.path, {})["post"] = _direct(endpoint)
    operations = [one for methods in found["paths"].values() for one in methods.values()]
    facts = [operation.pop(FACTS, {}) for operation in operations]
    schemas = _Schemas([_ERROR, *(name for each in facts for name in _models(each))])
    for operation, each in zip(operations, facts, strict=True):
        _complete(operation, each, schemas, model)
    found["components"] = {
        "schemas": schemas.definitions,
        "responses": {
            _error_name(status): _error(status, schemas.of(_ERROR)) for status in _ERRORS
        },
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
    }
    found["security"] = [{"bearer": []}] if keys() else [{"bearer": []}, {}]
    return found


class _Generator(GenerateJsonSchema):
    """A union whose members are told apart by a function may have members that overlap."""

    def tagged_union_schema(self, schema: TaggedUnionSchema) -> Json:
        found = super().tagged_union_schema(schema)
        if "oneOf" in found and "discriminator" not in found:
            found["anyOf"] = found.pop("oneOf")
        return found


class _Schemas:
    """The schemas of models, each defined once under a name of its own."""

    def __init__(self, names: Iterable[str]) -> None:
        adapters = [
            (name, "validation", TypeAdapter(_resolve(name))) for name in sorted(set(names))
        ]
        found, definitions = TypeAdapter.json_schemas(
            adapters,  # type: ignore[arg-type]  # "validation" is a literal
            ref_template=_REFERENCE,
            schema_generator=_Generator,
        )
        self._found = {name: schema for (name, _), schema in found.items()}
        self.definitions: Json = definitions["$defs"]

    def of(self, name: str) -> Json:
        return self._found[name]


def _resolve(name: str) -> Any:
    one = name.removeprefix("*")
    found = resolve_name(one)
    return found if one == name else Page.__class_getitem__(found)


def _direct(endpoint: DirectEndpoint) -> Json:
    name = endpoint.path.removeprefix("/")
    return {
        "tags": [name.removeprefix("v1/").partition("/")[0]],
        "summary": endpoint.summary,
        "operationId": name.replace("/", "_"),
        **endpoint.documentation,
    }


def _models(facts: Json) -> list[str]:
    named = [
        facts.get("body"),
        facts.get("event"),
        facts.get("error"),
        _answer(facts),
        *facts.get("others", {}).values(),
    ]
    return [name for name in named if name]


def _answer(facts: Json) -> str | None:
    """The name of the answer's model; of a page of such with a star before it."""
    answer: str | None = facts.get("answer")
    return f"*{answer}" if answer and facts.get("listed") else answer


def _complete(operation: Json, facts: Json, schemas: _Schemas, model: str) -> None:
    body, keyless = facts.get("body"), facts.get("keyless", False)
    if body is not None:
        content = {"schema": schemas.of(body)}
        if example := facts.get("example"):
            content["example"] = example | ({"model": model} if "model" in example else {})
        required = not facts.get("optional", False)
        operation["requestBody"] = {"required": required, "content": {_JSON: content}}
    if keyless:
        operation["security"] = []
    error = facts.get("error")
    errors = {
        str(status): _error(status, schemas.of(error))
        if error
        else {"$ref": f"#/components/responses/{_error_name(status)}"}
        for status in _ERRORS
        if not (status in _WITH_BODY and "requestBody" not in operation)
        and not (status in _WITH_KEY and keyless)
    }
    others = {
        status: _response(HTTPStatus(int(status)).phrase, {_JSON: schemas.of(name)})
        for status, name in facts.get("others", {}).items()
    }
    success = _response("The answer.", _media(facts, schemas))
    operation["responses"] = {"200": success} | errors | others


def _media(facts: Json, schemas: _Schemas) -> Json:
    answer, event = _answer(facts), facts.get("event")
    media = {facts.get("media_type", _JSON): schemas.of(answer) if answer else {}}
    if event:
        media["text/event-stream"] = _events(
            schemas.of(event), schemas.of(facts.get("error", _ERROR))
        )
    return media


def _events(event: Json, error: Json) -> Json:
    """Each server-sent event: one of the answer's, an error, or the mark at a stream's end."""
    told = {"contentMediaType": _JSON, "contentSchema": {"anyOf": [event, error]}}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        "anyOf": [
            {"properties": {"data": {"const": "[DONE]"}}},
            {"properties": {"data": told}},
        ],
    }


def _response(description: str, media: Json) -> Json:
    content = {media_type: {"schema": schema} for media_type, schema in media.items()}
    return {"description": description, "content": content}


def _error(status: int, schema: Json) -> Json:
    found = _response(_ERRORS[status], {_JSON: schema})
    return found | ({"headers": _RETRY_HEADERS} if status in _RETRYABLE else {})


def _error_name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")
