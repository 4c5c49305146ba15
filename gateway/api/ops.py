"""For operators: `/healthz`, `/readyz`, `/health`, `/metrics`, `/version`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

import gateway
from gateway.api.schemas import documented
from gateway.deployments import Replica
from gateway.services import PrincipalDep, ServicesDep

router = APIRouter(tags=["operations"])


@router.get(
    "/healthz",
    openapi_extra=documented(
        answer="gateway.protocol.answers:Health",
        others={503: "gateway.protocol.answers:Health"},
        keyless=True,
    ),
)
async def healthz(room: ServicesDep) -> Response:
    """200 while the process can still serve or come to serve; 503 once only a restart helps."""
    alive = await room.lifecycle.alive()
    return JSONResponse({"status": "alive" if alive else "dead"}, status_code=200 if alive else 503)


_READINESS: Final = documented(
    answer="gateway.protocol.answers:Readiness",
    others={503: "gateway.protocol.answers:Readiness"},
    keyless=True,
)


# By its second name, vLLM's, load tools and balancers ask whether requests may come.
@router.get("/health", openapi_extra=_READINESS, operation_id="health")
@router.get("/readyz", openapi_extra=_READINESS, operation_id="readyz")
async def readyz(room: ServicesDep) -> Response:
    """200 where every model is loaded and its engine is stepping; else 503, why, and which."""
    reason = await room.lifecycle.not_ready_because()
    answer: dict[str, Any] = {"status": reason or "ready"}
    if len(room.deployments.replicas) > 1:
        answer["models"] = await room.lifecycle.states()
    return JSONResponse(answer, status_code=503 if reason else 200)


@router.get(
    "/metrics",
    openapi_extra=documented(answer=str, media_type=CONTENT_TYPE_LATEST, keyless=True),
)
async def metrics(room: ServicesDep) -> Response:
    """Prometheus text: the gateway's series, then vLLM's."""
    await room.metrics.refresh()
    return Response(room.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/version", openapi_extra=documented(answer="gateway.protocol.answers:Version"))
async def version(room: ServicesDep, _caller: PrincipalDep) -> dict[str, Any]:
    """The program's version and what its engines run, with how long each part of the start took.

    `engine` and `start` are the first model's, `models` has all of them.
    """
    models = {replica.name: _running(replica) for replica in room.deployments.replicas}
    return {
        "version": gateway.__version__,
        **models[room.deployments.default.name],
        "models": models,
    }


def _running(replica: Replica) -> dict[str, Any]:
    engine = replica.loaded
    if engine is None:
        return {"engine": None, "start": None}
    phases = {phase.name: round(phase.seconds, 3) for phase in engine.start_phases}
    return {"engine": asdict(engine.info), "start": phases}
