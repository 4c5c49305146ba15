"""For operators: `/healthz`, `/readyz`, `/metrics`, `/version`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

import gateway
from gateway.services import PrincipalDep, ServicesDep

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz(room: ServicesDep) -> Response:
    """200 while the process can still serve or come to serve; 503 once only a restart helps."""
    alive = await room.lifecycle.alive()
    return JSONResponse({"status": "alive" if alive else "dead"}, status_code=200 if alive else 503)


@router.get("/readyz")
async def readyz(room: ServicesDep) -> Response:
    """200 where the model is loaded and its engine is stepping; else 503 and why."""
    reason = await room.lifecycle.not_ready_because()
    return JSONResponse({"status": reason or "ready"}, status_code=503 if reason else 200)


@router.get("/metrics")
async def metrics(room: ServicesDep) -> Response:
    """Prometheus text: the gateway's series, then vLLM's."""
    return Response(room.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/version")
async def version(room: ServicesDep, _caller: PrincipalDep) -> dict[str, Any]:
    """The program's version and what its engine runs, with how long each part of the start took."""
    engine = room.lifecycle.engine_or_none
    return {
        "version": gateway.__version__,
        "engine": asdict(engine.info) if engine else None,
        "start": {phase.name: round(phase.seconds, 3) for phase in engine.start_phases}
        if engine
        else None,
    }
