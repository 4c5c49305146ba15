"""The composition root: the only place that picks implementations and wires the rooms."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

import gateway
from engine.base import Engine, EngineError, EngineStats, StartPhase
from engine.config import EngineConfig
from gateway.admission import Admission
from gateway.api import chat, completions, models, ops, tokens
from gateway.api.generation import GenerationEndpoint
from gateway.api.schemas import openapi
from gateway.asgi import CLIENT_CLOSED, RequestContext, refuse
from gateway.auth import Authenticator
from gateway.config import GatewayConfig
from gateway.errors import APIError, InvalidRequestError, NotFoundError
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.services import Services
from gateway.sse import Reply

logger = logging.getLogger(__name__)

T = TypeVar("T")
Report = Callable[[StartPhase | str], None]


async def start_engine(config: EngineConfig, report: Report | None = None) -> Engine:
    """Load the configured engine. Raises EngineStartError, also where there is no such model."""
    if config.kind == "simulated":
        from engine.simulated import SimulatedEngine

        return SimulatedEngine(config)
    from engine import models as checkpoints
    from engine import vllm_engine

    weights = config.load_format != "dummy"
    resolved = await _in_daemon_thread(
        lambda: checkpoints.resolve(config.model, config.revision, weights=weights)
    )
    return await vllm_engine.start(config, str(resolved.path), report=report)


async def _in_daemon_thread(function: Callable[[], T]) -> T:
    """Like asyncio.to_thread, but the program can end without waiting for a download."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: object) -> None:
        if not outcome.done():
            setter(value)

    def work() -> None:
        try:
            setter, value = outcome.set_result, function()
        except Exception as error:
            setter, value = outcome.set_exception, error  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, setter, value)

    threading.Thread(target=work, daemon=True, name="resolve").start()
    return await outcome


def build_app(config: GatewayConfig, environ: Mapping[str, str] | None = None) -> FastAPI:
    """The ASGI application, its engine still to be handed to `app.state.services.lifecycle`.

    Raises ConfigError where a configured key can't be used.
    """
    metrics, lifecycle = Metrics(), Lifecycle(config.health)
    admission = Admission(config.admission)
    pipeline = Pipeline(lifecycle, admission, metrics)
    services = Services(
        config=config,
        lifecycle=lifecycle,
        authenticator=Authenticator(config.auth, environ),
        admission=admission,
        pipeline=pipeline,
        reply=Reply(pipeline, metrics, write_share=config.server.write_share),
        metrics=metrics,
    )
    metrics.requests_running.set_function(lambda: admission.inside)
    metrics.watch_engine(lambda: _stats(lifecycle))
    endpoints: list[GenerationEndpoint[Any]] = [
        chat.endpoint(services),
        completions.endpoint(services),
    ]
    direct = {endpoint.path: endpoint for endpoint in endpoints}
    docs: dict[str, Any] = {} if config.server.docs else {"openapi_url": None}
    app = FastAPI(
        title="gateway",
        version=gateway.__version__,
        redirect_slashes=False,
        redoc_url=None,
        middleware=[Middleware(RequestContext, direct=direct, metrics=metrics)],
        **docs,
    )
    app.state.services = services
    app.openapi = lambda: openapi(app, endpoints)  # type: ignore[method-assign]
    # POST requests never get there; others do, to be told so.
    app.router.routes += [
        Route(path, endpoint, methods=["POST"]) for path, endpoint in direct.items()
    ]
    for room in (models, tokens, ops):
        app.include_router(room.router)
    for kind in (APIError, EngineError):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(HTTPException, _answer_framework_error)
    return app


def _stats(lifecycle: Lifecycle) -> EngineStats | None:
    engine = lifecycle.engine_or_none
    return engine.stats() if engine is not None else None


async def _answer_error(_request: Request, error: Exception) -> Response:
    return refuse(error)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


async def _answer_framework_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, as OpenAI errors."""
    if not isinstance(error, HTTPException):
        return await _answer_error(request, error)
    method, path = request.method, request.scope["path"][:256]
    if error.status_code == 404:
        return await _answer_error(
            request,
            NotFoundError(f"Invalid URL ({method} {path}).", code="unknown_url"),
        )
    if error.status_code == 405:
        message = f"Not allowed to {method} on {path}."
        code = "method_not_supported"
    else:
        message, code = str(error.detail), "bad_request"
    return await _answer_error(
        request,
        InvalidRequestError(
            message,
            status=error.status_code,
            code=code,
            headers=dict(error.headers or {}),
        ),
    )
