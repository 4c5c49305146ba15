"""What the routes of lists share."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.protocol.lists import ListQuery, list_object
from gateway.protocol.parse import WireModel
from gateway.store.paging import Page, Slice


def query_parameters(model: type[WireModel]) -> dict[str, Any]:
    """For the `openapi_extra` of a route whose query is a `model`."""
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "schema": schema,
                **({"style": "deepObject"} if schema.get("type") == "object" else {}),
            }
            for name, schema in model.model_json_schema()["properties"].items()
        ]
    }


def asked(query: ListQuery) -> Slice:
    return Slice(query.limit, query.order, query.after)


def listed(page: Page) -> Response:
    return answered(list_object(page.ids, page.bodies, has_more=page.has_more))


def answered(body: bytes) -> Response:
    """An answer that is JSON already."""
    return Response(body, media_type="application/json")
