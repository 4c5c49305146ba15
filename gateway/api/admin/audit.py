"""`/admin/v1/audit`: who changed what, and when."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.admin.access import TenancyDep
from gateway.api.lists import asked, listed, query_parameters
from gateway.api.schemas import documented
from gateway.keys.objects import encode, event_object, event_seq
from gateway.protocol.lists import parse_query
from gateway.protocol.tenancy import LAST_TIME, AuditQuery
from gateway.store.paging import Page, unknown_cursor
from gateway.store.tenancy import EventsWanted

router = APIRouter(prefix="/audit")


@router.get(
    "",
    openapi_extra={
        **documented(answer="gateway.protocol.admin_answers:AuditEvent", listed=True),
        **query_parameters(AuditQuery),
    },
)
async def list_events(request: Request, tenancy: TenancyDep) -> Response:
    """What administrators did, the newest first where nothing else is asked."""
    query = parse_query(AuditQuery, request.query_params.multi_items())
    after = None if query.after is None else event_seq(query.after)
    if query.after is not None and after is None:
        raise unknown_cursor(query.after)
    wanted = EventsWanted(
        actor=query.actor,
        action=query.action,
        object=query.object,
        since=query.since or None,
        until=query.until if query.until < LAST_TIME else None,
    )
    events, has_more = await tenancy.events(wanted, asked(query), after)
    objects = [event_object(event) for event in events]
    bodies = [encode(event) for event in objects]
    return listed(Page([event["id"] for event in objects], bodies, has_more))
