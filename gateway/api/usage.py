"""`/admin/v1/usage`: what was used, by whom. Included where there are administrators."""

from __future__ import annotations

import contextlib
import time
from functools import partial

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from gateway.api.admin.access import administrator
from gateway.api.lists import answered, query_parameters
from gateway.api.schemas import documented
from gateway.errors import UnavailableError
from gateway.protocol.lists import parse_query
from gateway.protocol.usage import (
    UsageQuery,
    answer,
    as_csv,
    default_since,
    dimensions,
    moment,
    told,
)
from gateway.services import ServicesDep
from gateway.store import usage
from gateway.store.usage import Filter

router = APIRouter(tags=["admin"], prefix="/admin/v1", dependencies=[Depends(administrator)])


@router.get(
    "/usage",
    openapi_extra={
        **documented(answer="gateway.protocol.usage:Usage"),
        **query_parameters(UsageQuery),
    },
)
async def get_usage(request: Request, room: ServicesDep) -> Response:
    """Requests, tokens and cost from the ledger. As CSV with `format=csv`, or where the request's
    `Accept` says `text/csv`."""
    query = parse_query(UsageQuery, request.query_params.multi_items())
    by, only = dimensions(query.by), _filter(query)
    with contextlib.suppress(UnavailableError):  # the database's own answer will be the same
        await room.ledger.flush()
    groups = await room.store.database.read(
        partial(usage.sums, by=by, only=only, limit=query.limit + 1, offset=query.offset),
        lane="reports",
    )
    shown = [told(group) for group in groups[: query.limit]]
    has_more = len(groups) > query.limit
    accepted = request.headers.get("accept", "").partition(";")[0].strip().lower()
    if query.format == "csv" or (query.format is None and accepted == "text/csv"):
        headers = {"x-has-more": str(has_more).lower()}
        return Response(as_csv(shown, by), media_type="text/csv", headers=headers)
    return answered(
        msgspec.json.encode(answer(shown, by, only.since, only.until, has_more=has_more))
    )


def _filter(query: UsageQuery) -> Filter:
    until = time.time() if query.until is None else moment(query.until)
    return Filter(
        since=default_since(until) if query.since is None else moment(query.since),
        until=until,
        key=query.key,
        team=query.team,
        model=query.model,
        caller=query.caller,
        endpoint=query.endpoint,
        outcome=query.outcome,
    )
