"""`/admin/v1/teams`: keys that share limits."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.admin.access import ActorDep, TenancyDep, read_strictly, told
from gateway.api.lists import asked, listed, query_parameters
from gateway.api.schemas import documented
from gateway.keys.objects import encode, team_object
from gateway.protocol.lists import ListQuery, parse_query
from gateway.protocol.tenancy import CreateTeam, UpdateTeam
from gateway.services import ServicesDep
from gateway.store.paging import Page

router = APIRouter(prefix="/teams")

_ANSWERS = "gateway.protocol.admin_answers"
_TEAM = f"{_ANSWERS}:Team"


@router.post(
    "",
    openapi_extra=documented(
        CreateTeam, answer=_TEAM, example={"name": "research", "tpm": 1_000_000, "weight": 2}
    ),
)
async def create_team(
    request: Request, room: ServicesDep, tenancy: TenancyDep, actor: ActorDep
) -> Response:
    """Make a team."""
    body = await read_strictly(request, room, CreateTeam)
    return told(team_object(await tenancy.create_team(actor, body)))


@router.get(
    "",
    openapi_extra={**documented(answer=_TEAM, listed=True), **query_parameters(ListQuery)},
)
async def list_teams(request: Request, tenancy: TenancyDep) -> Response:
    """Teams in the order they were made."""
    query = parse_query(ListQuery, request.query_params.multi_items())
    teams, has_more = await tenancy.teams(asked(query))
    bodies = [encode(team_object(team)) for team in teams]
    return listed(Page([team.id for team in teams], bodies, has_more))


@router.get("/{team_id}", openapi_extra=documented(answer=_TEAM))
async def retrieve_team(team_id: str, tenancy: TenancyDep) -> Response:
    """One team."""
    return told(team_object(await tenancy.team(team_id)))


@router.post(
    "/{team_id}",
    openapi_extra=documented(UpdateTeam, answer=_TEAM, example={"tpm": 2_000_000}),
)
async def update_team(
    team_id: str, request: Request, room: ServicesDep, tenancy: TenancyDep, actor: ActorDep
) -> Response:
    """Change what is given; null takes a limit away."""
    body = await read_strictly(request, room, UpdateTeam)
    return told(team_object(await tenancy.update_team(actor, team_id, body)))


@router.delete("/{team_id}", openapi_extra=documented(answer=f"{_ANSWERS}:TeamDeleted"))
async def delete_team(team_id: str, tenancy: TenancyDep, actor: ActorDep) -> Response:
    """Delete a team; its keys are refused from now on."""
    await tenancy.delete_team(actor, team_id)
    return told({"id": team_id, "object": "team", "deleted": True})
