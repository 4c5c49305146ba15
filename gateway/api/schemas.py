"""/openapi.json: the routes read and validate bodies themselves, after the caller is known, so
their schemas are added here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from gateway.api.generation import GenerationEndpoint
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.completions import CompletionRequest
from gateway.protocol.parse import WireModel
from gateway.protocol.tokens import DetokenizeRequest, TokenizeRequest

_REFERENCE = "#/components/schemas/{model}"
_BODIES = (ChatCompletionRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)


def documented(model: type[WireModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes `model`."""
    schema = {"$ref": _REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _operation(endpoint: GenerationEndpoint[Any]) -> dict[str, Any]:
    """A stream's events are no one JSON object: so the answer is described by its media types."""
    media: dict[str, Any] = {
        "application/json": {"schema": {}},
        "text/event-stream": {"schema": {}},
    }
    return {
        "summary": endpoint.summary,
        "operationId": endpoint.path.removeprefix("/").replace("/", "_"),
        "responses": {"200": {"description": "Successful Response", "content": media}},
        **documented(endpoint.model),
    }


def openapi(app: FastAPI, endpoints: Sequence[GenerationEndpoint[Any]]) -> dict[str, Any]:
    """The whole document, request bodies and bearer keys included."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, bodies = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template=_REFERENCE
        )
        for endpoint in endpoints:
            document["paths"][endpoint.path] = {"post": _operation(endpoint)}
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(bodies["$defs"])
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearer": []}]
        app.openapi_schema = document
    return app.openapi_schema
