"""`GET /openapi.json` and `GET /docs`, which shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response


def router(document: Callable[[], dict[str, Any]]) -> APIRouter:
    """Routes for what `document` makes when it is first asked for. That takes a second, which is
    spent in a thread: streams go on meanwhile."""
    routes = APIRouter(include_in_schema=False)
    made: list[bytes] = []
    making = asyncio.Lock()

    @routes.get("/openapi.json")
    async def openapi() -> Response:
        async with making:
            if not made:
                made.append(await asyncio.to_thread(lambda: msgspec.json.encode(document())))
        return Response(made[0], media_type="application/json")

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="/openapi.json", title="gateway")

    return routes
