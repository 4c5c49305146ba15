"""The composition root: the only place that picks implementations and wires the rooms."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

import gateway
from engine.base import EngineDeadError, EngineError, EngineStats, LoadedModel, StartPhase
from engine.config import EngineConfig
from gateway.adapters import Adapters
from gateway.admission import Admission
from gateway.api import (
    admin,
    chat,
    completions,
    conversations,
    docs,
    embeddings,
    messages,
    models,
    ops,
    rerank,
    responses,
    stored,
    tokens,
    usage,
)
from gateway.api.generation import GenerationEndpoint
from gateway.api.openapi import document
from gateway.asgi import RequestContext, allowed_methods, refuse
from gateway.auth import Authenticator
from gateway.config import AuthConfig, GatewayConfig
from gateway.deployments import Deployments, Replica
from gateway.errors import (
    CLIENT_CLOSED,
    APIError,
    InvalidRequestError,
    NotFoundError,
    as_api_error,
)
from gateway.holds import Holds
from gateway.keys import KeyRing, Pepper
from gateway.keys.tenancy import Tenancy
from gateway.ledger import Ledger
from gateway.lifecycle import Lifecycle
from gateway.limits import Limiter, shared_limits
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.poolings import Poolings
from gateway.recall import Recall
from gateway.responses.background import BackgroundResponses
from gateway.services import Services
from gateway.sse import Reply
from gateway.store.state import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")
Report = Callable[[StartPhase | str], None]


async def start_engine(
    config: EngineConfig, report: Report | None = None, name: str | None = None
) -> LoadedModel:
    """Load the configured engine: an `Engine`, or an `Embedder` where it is told to pool. `name`
    is what its series are labelled with. Raises EngineStartError, also where there is no such
    model."""
    if config.kind == "simulated":
        from engine.simulated import SimulatedEngine
        from engine.simulated_pooling import SimulatedEmbedder

        return SimulatedEmbedder(config) if config.runner == "pooling" else SimulatedEngine(config)
    from engine import models as checkpoints
    from engine import vllm_engine, vllm_pooling

    weights = config.load_format != "dummy"
    resolved = await _in_daemon_thread(
        lambda: checkpoints.resolve(config.model, config.revision, weights=weights)
    )
    path = str(resolved.path)
    if config.runner == "pooling":
        return await vllm_pooling.start(config, path, report=report, name=name)
    return await vllm_engine.start(config, path, report=report, name=name)


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
    metrics, deployments = Metrics(), Deployments(config.served)
    lifecycle = Lifecycle(config.health, deployments)
    admission = Admission(config.admission, time.perf_counter)
    for replica in deployments.replicas:
        replica.watchers.append(partial(_serve, admission))
    store = Store(config.state)
    limiter = Limiter(config.limits, shared=shared_limits(config.limits, store.database))
    ledger = Ledger(config.ledger, store.database)
    holds = Holds(admission, limiter, ledger)
    pipeline = Pipeline(config, lifecycle, holds, metrics)
    pepper = Pepper(config.auth, store.database, environ)
    keys = KeyRing(store.database, pepper, config.auth.refresh_s)
    services = Services(
        config=config,
        deployments=deployments,
        adapters=Adapters(deployments),
        lifecycle=lifecycle,
        authenticator=Authenticator(config.auth, environ, keys),
        administrators=Authenticator(AuthConfig(api_keys=config.auth.admin_keys), environ),
        keys=keys,
        tenancy=Tenancy(store.database, pepper, keys),
        admission=admission,
        limiter=limiter,
        ledger=ledger,
        recall=Recall(keys, ledger, limiter),
        pipeline=pipeline,
        poolings=Poolings(config.admission, lifecycle, holds, metrics),
        reply=Reply(pipeline, metrics, write_share=config.server.write_share),
        background=BackgroundResponses(config.responses, pipeline, store.responses),
        metrics=metrics,
        store=store,
    )
    metrics.requests_running.set_function(lambda: admission.inside)
    metrics.watch_engines(lambda: _stats(deployments))
    metrics.watch_ledger(lambda: ledger.waiting)
    metrics.watch_utilization(lambda: _processes(deployments))
    metrics.watch_queues(
        lambda: {one.name: admission.stats(one.name) for one in deployments.replicas}
    )
    endpoints: list[GenerationEndpoint[Any] | responses.ResponsesEndpoint] = [
        chat.endpoint(services),
        completions.endpoint(services),
        messages.endpoint(services),
        responses.ResponsesEndpoint(services),
    ]
    direct = {endpoint.path: endpoint for endpoint in endpoints}
    app = _Application(
        title="gateway",
        version=gateway.__version__,
        redirect_slashes=False,
        openapi_url=None,
        middleware=[
            Middleware(
                RequestContext,
                direct=direct,
                metrics=metrics,
                cors=config.server.cors,
                ledger=ledger,
            )
        ],
    )
    app.state.services = services
    # POST requests never get there; others do, to be told so.
    app.router.routes += [
        Route(path, endpoint, methods=["POST"]) for path, endpoint in direct.items()
    ]
    rooms = (
        models,
        messages,
        responses,
        embeddings,
        rerank,
        tokens,
        stored,
        conversations,
        ops,
    )
    for room in rooms:
        app.include_router(room.router)
    if config.server.docs:
        about = partial(
            document,
            app,
            endpoints,
            model=deployments.default.name,
            keys=lambda: services.authenticator.required,
        )
        app.include_router(docs.router(about))
    if config.auth.admin_keys:
        app.include_router(admin.router)
        app.include_router(usage.router)
    for kind in (APIError, EngineError):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(HTTPException, _answer_framework_error)
    return app


class _Application(FastAPI):
    """Without Starlette's outermost layer: `RequestContext` answers what nothing else has caught,
    and every message of every answer would be passed on by one more function."""

    def build_middleware_stack(self) -> ASGIApp:
        outermost: Any = super().build_middleware_stack()
        context: ASGIApp = outermost.app
        return context


def _serve(admission: Admission, replica: Replica) -> None:
    """Let the queue of a replica follow what becomes of it."""
    admission.serve(replica.name, replica.loaded)
    if replica.state == "dead":
        admission.refuse_queued(replica.name, as_api_error(EngineDeadError("")))


def _stats(deployments: Deployments) -> dict[str, EngineStats]:
    found = {replica.name: replica.stats() for replica in deployments.replicas}
    return {name: stats for name, stats in found.items() if stats is not None}


def _processes(deployments: Deployments) -> dict[str, tuple[int, ...]]:
    """Of each engine that has any of its own."""
    loaded = {one.name: one.loaded for one in deployments.replicas if one.loaded is not None}
    found = {name: engine.activity() for name, engine in loaded.items()}
    return {name: activity.pids for name, activity in found.items() if activity is not None}


async def _answer_error(request: Request, error: Exception) -> Response:
    return refuse(error, request.scope)


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
    headers = dict(error.headers or {})
    if error.status_code == 405:
        message = f"Not allowed to {method} on {path}."
        code = "method_not_supported"
        headers["Allow"] = allowed_methods(request.app.routes, request.scope)
    else:
        message, code = str(error.detail), "bad_request"
    return await _answer_error(
        request,
        InvalidRequestError(
            message,
            status=error.status_code,
            code=code,
            headers=headers,
        ),
    )
