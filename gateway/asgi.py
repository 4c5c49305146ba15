"""The outermost layer: gives every request an id and its time, finds who answers it, counts and
logs the answers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.base import EngineError
from gateway import exchange
from gateway.config import CorsConfig
from gateway.cors import Cors
from gateway.dialect import error_body, speaks_messages
from gateway.errors import CLIENT_CLOSED, APIError, InvalidRequestError, as_api_error, draining
from gateway.ids import new_request_id
from gateway.ledger import Entry, Ledger
from gateway.metrics import Metrics

access = logging.getLogger("gateway.access")
logger = logging.getLogger(__name__)

API_VERSION: Final = (b"openai-version", b"2020-10-01")
# Asked for every few seconds, by machines: not what an access log is read for.
_PROBES: Final = frozenset({"/health", "/healthz", "/readyz", "/metrics"})
_REQUEST_ID, _CLIENT_ID, _CODING = b"x-request-id", b"x-client-request-id", b"content-encoding"
_NOTICED: Final = frozenset({_REQUEST_ID, _CLIENT_ID, _CODING})
_GIVEN_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_CLIENTS_ID: Final = re.compile(rb"[ -~]{0,512}")


class RequestContext:
    """Adds `x-request-id`, `openai-processing-ms` and `openai-version`, and what else is known of
    an answer in the state of its scope (`limits`, `timings`); logs one line an answer.

    `direct` are the applications of paths whose POST requests are too many to be sent through the
    framework of `app`, which would cost as much as all the rest. What nothing else has caught
    becomes an error object here.

    A request is known by an id of ours, because one that a client chose could be another's too.
    A client's `x-request-id`, as proxies set it, is shown instead of ours where it is well-formed,
    its `x-client-request-id` beside it; the log has all of them.
    """

    def __init__(
        self,
        app: ASGIApp,
        direct: Mapping[str, ASGIApp],
        metrics: Metrics,
        cors: CorsConfig,
        ledger: Ledger,
    ) -> None:
        self._ledger = ledger
        self._app = app
        self._direct = direct
        self._metrics = metrics
        self._answer: ASGIApp = Cors(self._dispatch, cors) if cors.allow_origins else self._dispatch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = time.perf_counter()
        request_id = new_request_id()
        shown = [(_REQUEST_ID, request_id.encode()), API_VERSION]
        if speaks_messages(scope["path"]):
            shown.append((b"request-id", request_id.encode()))
        state: dict[str, Any] = scope.setdefault("state", {})
        state.update(arrived=arrived, request_id=request_id, shown=shown)
        state.setdefault("status", None)  # told already where the connection has refused it

        connection = exchange.of(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] != "http.response.start":
                await send(message)
                connection.release()
            else:
                state["status"] = state["status"] or message["status"]
                elapsed_ms = round((time.perf_counter() - arrived) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    *shown,
                    *(state["limits"]() if "limits" in state else ()),
                    *((state["timings"].header(),) if "timings" in state else ()),
                    (b"openai-processing-ms", b"%d" % elapsed_ms),
                ]
                # Until a part of the body, or whoever writes it otherwise, goes with it: a system
                # call costs more than all that led to it.
                connection.hold()
                await send(message)

        try:
            await self._answer(scope, receive, send_with_id)
        finally:
            self._record(scope, state["status"] or CLIENT_CLOSED, arrived)
            if "entry" in state and not state["entry"].recorded:
                self._write_down(state["entry"], state["status"] or CLIENT_CLOSED, arrived)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with who is responsible, and with an error object for what is raised."""
        state, method = scope["state"], scope["method"]
        try:
            if noticed := [header for header in scope["headers"] if header[0] in _NOTICED]:
                _notice(noticed, state)
            direct = self._direct.get(scope["path"]) if method == "POST" else None
            if direct is not None:
                scope["route"] = scope["path"]
                await direct(scope, receive, send)
            elif method == "HEAD":
                await self._answer_head(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            # The server is closing its connections; only what it never began is cancelled here.
            if state["status"] is None:
                await error_response(draining(), scope)(scope, receive, send)
        except Exception as error:
            known = isinstance(error, (APIError, EngineError))
            if not known:
                logger.exception("request %s failed", state["request_id"])
            if state["status"] is not None:
                raise
            answer = refuse(error, scope) if known else error_response(as_api_error(error), scope)
            await answer(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as a GET; the connection, which knows better, leaves the body out."""
        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send)
        finally:
            scope["route"] = asked.get("route")

    def _write_down(self, entry: Entry, status: int, arrived: float) -> None:
        """A request that ended before a model had anything to do with it."""
        entry.status, entry.total_s = status, time.perf_counter() - arrived
        entry.outcome = "failed" if status == 500 else "rejected"
        if status == CLIENT_CLOSED:
            entry.outcome = "cancelled"
        self._ledger.record(entry)

    def _record(self, scope: Scope, status: int, arrived: float) -> None:
        found, state = scope.get("route"), scope["state"]
        route = found if isinstance(found, str) else getattr(found, "path", "unmatched")
        self._metrics.http_requests.labels(route, str(status)).inc()
        level = logging.DEBUG if route in _PROBES else logging.INFO
        if access.isEnabledFor(level):
            took_ms = (time.perf_counter() - arrived) * 1000
            who = state.get("principal", "-")
            # As `log` would, which also finds out what line this is: half of what it costs.
            access.handle(
                access.makeRecord(
                    access.name,
                    level,
                    __file__,
                    0,
                    "%s %s %d %.0fms %s %s",
                    (scope["method"], route, status, took_ms, state["request_id"], who),
                    None,
                    extra=state.get("client_ids"),
                )
            )


def _notice(headers: Iterable[tuple[bytes, bytes]], state: dict[str, Any]) -> None:
    """Take over a client's ids. Raises InvalidRequestError (400, 415)."""
    shown, ids = state["shown"], state.setdefault("client_ids", {})
    for name, value in headers:
        if name == _REQUEST_ID:
            if _GIVEN_ID.fullmatch(value):
                shown[0] = (name, value)
                ids["given_request_id"] = value.decode()
        elif name == _CLIENT_ID:
            if not _CLIENTS_ID.fullmatch(value):
                raise InvalidRequestError(
                    "Invalid 'X-Client-Request-Id' header: expected at most 512 printable ASCII "
                    "characters.",
                    code="invalid_header",
                )
            ids["client_request_id"] = value.decode()
            shown.append((name, value))
        elif value.strip().lower() not in (b"", b"identity"):
            raise InvalidRequestError(
                "Unsupported content encoding: send the body as it is, without 'Content-Encoding'.",
                status=415,
                code="unsupported_content_encoding",
                headers={"accept-encoding": "identity"},
            )


def allowed_methods(routes: Iterable[BaseRoute], scope: Scope) -> str:
    """The `allow` header of a 405: every method that some route takes at this path."""
    methods = {
        method
        for route in routes
        if route.matches(scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    }
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def refuse(error: Exception, scope: Scope) -> Response:
    """The answer to a request that failed before its first byte; what is our fault is logged."""
    known = as_api_error(error)
    if "entry" in scope["state"]:
        scope["state"]["entry"].code = known.code
    if not isinstance(error, APIError) and known.status >= 500:
        logger.error("request failed: %r", error)
    return error_response(known, scope)


def error_response(error: APIError, scope: Scope) -> Response:
    """The HTTP answer that `error` is, to the request of `scope`."""
    body = error_body(error, scope["path"], scope["state"]["request_id"])
    return Response(body, error.status, headers=error.headers, media_type="application/json")
