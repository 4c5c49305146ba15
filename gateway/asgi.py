"""The outermost layer: gives every request an id and its time, finds who answers it, counts and
logs the answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.base import EngineError
from gateway.errors import APIError, as_api_error, draining
from gateway.metrics import Metrics

access = logging.getLogger("gateway.access")
logger = logging.getLogger(__name__)

CLIENT_CLOSED = 499


def new_request_id() -> str:
    """An id for `x-request-id`. It is always ours: one chosen by a client could collide with, or
    pose as, another's."""
    return "req_" + secrets.token_hex(16)


class RequestContext:
    """Adds `x-request-id` and `openai-processing-ms`, logs one line an answer.

    `direct` are the applications of paths whose POST requests are too many to be sent through the
    framework of `app`, which would cost as much as all the rest. What nothing else has caught
    becomes an error object here.
    """

    def __init__(self, app: ASGIApp, direct: Mapping[str, ASGIApp], metrics: Metrics) -> None:
        self._app = app
        self._direct = direct
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = time.perf_counter()
        request_id = new_request_id()
        scope.setdefault("state", {}).update(arrived=arrived, request_id=request_id)
        status = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                elapsed_ms = round((time.perf_counter() - arrived) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", str(elapsed_ms).encode()),
                ]
            await send(message)

        direct = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            if direct is not None:
                await self._answer_directly(direct, scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server is closing its connections; only what it never began is cancelled here.
            if status is None:
                await error_response(draining())(scope, receive, send_with_id)
        except Exception as error:
            logger.exception("request %s failed", request_id)
            if status is not None:
                raise
            await error_response(as_api_error(error))(scope, receive, send_with_id)
        finally:
            self._record(scope, status or CLIENT_CLOSED, arrived)

    async def _answer_directly(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope["route"] = scope["path"]
        try:
            await app(scope, receive, send)
        except ClientDisconnect:
            pass
        except (APIError, EngineError) as error:
            await refuse(error)(scope, receive, send)

    def _record(self, scope: Scope, status: int, arrived: float) -> None:
        found = scope.get("route")
        route = found if isinstance(found, str) else getattr(found, "path", "unmatched")
        self._metrics.http_requests.labels(route, str(status)).inc()
        access.info(
            "%s %s %d %.0fms %s %s",
            scope["method"],
            route,
            status,
            (time.perf_counter() - arrived) * 1000,
            scope["state"]["request_id"],
            scope["state"].get("principal", "-"),
        )


def refuse(error: Exception) -> Response:
    """The answer to a request that failed before its first byte; what is our fault is logged."""
    known = as_api_error(error)
    if not isinstance(error, APIError) and known.status >= 500:
        logger.error("request failed: %r", error)
    return error_response(known)


def error_response(error: APIError) -> Response:
    """The HTTP answer that `error` is."""
    return Response(
        error.body(), error.status, headers=error.headers, media_type="application/json"
    )
