"""The one middleware: gives every request an id and its time, and counts the answers."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.metrics import Metrics

access = logging.getLogger("gateway.access")

CLIENT_CLOSED = 499


class RequestContext:
    """Adds `x-request-id` and `openai-processing-ms`, logs one line an answer.

    The id is always ours: one chosen by a client could collide with, or pose as, another's.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = time.perf_counter()
        request_id = "req_" + secrets.token_hex(16)
        scope.setdefault("state", {}).update(arrived=arrived, request_id=request_id)
        status = CLIENT_CLOSED

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

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.http_requests.labels(route, str(status)).inc()
            access.info(
                "%s %s %d %.0fms %s %s",
                scope["method"],
                route,
                status,
                (time.perf_counter() - arrived) * 1000,
                request_id,
                scope["state"].get("principal", "-"),
            )
