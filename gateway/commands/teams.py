"""`gateway teams`: keys that share limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands import ConfigOption, Exit, SetOption, fail, on_terminal
from gateway.commands.tables import moment, print_facts, print_table
from gateway.commands.tenancy import (
    BudgetOption,
    ConcurrentOption,
    JsonOption,
    LimitOptions,
    RpmOption,
    TpmOption,
    WeightOption,
    actor,
    administer,
    every,
    find_team,
    limits_in_words,
    print_json,
    wire,
)

if TYPE_CHECKING:
    from gateway.keys import Tenancy
    from gateway.store.tenancy import Team


teams = typer.Typer(
    name="teams",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Teams: keys that share limits, budgets, and one place in the fair queue.

    The commands work on the state database ([b]state.url[/b]), whether or not a
    gateway runs on it; one that does obeys within a second. Teams are named by
    their name or id.

    [b]Examples[/b]

      gateway teams create research --tpm 1m --weight 2
      gateway keys create bot --team research
      gateway teams update research --budget cost=500/month
      gateway teams delete research

    [b]Exit codes[/b]  0 done · 1 no such team, its name is taken, or the database failed ·
    2 wrong usage or configuration
    """,
)

TeamArgument = Annotated[str, typer.Argument(metavar="TEAM", help="Its name, or its id.")]


@teams.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="No other team may have it.")],
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    max_concurrent: ConcurrentOption = None,
    budget: BudgetOption = None,
    weight: WeightOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Make a team. Its limits are for all its keys together.

    [b]Examples[/b]

      gateway teams create research
      gateway teams create research --tpm 1m --budget cost=500/month --weight 2
    """
    fields = _fields(LimitOptions(rpm, tpm, max_concurrent, budget), weight, name)

    async def work(tenancy: Tenancy) -> Team:
        from gateway.protocol.tenancy import CreateTeam

        return await tenancy.create_team(actor(), wire(CreateTeam, fields))

    _tell(administer(config, assignments, work), as_json)


@teams.command("list")
def list_teams(
    as_json: JsonOption = False, config: ConfigOption = None, assignments: SetOption = None
) -> None:
    """List teams, the oldest first.

    [b]Examples[/b]

      gateway teams list
      gateway teams list --json | jq -r '.[].name'
    """
    found = administer(config, assignments, _all)
    if as_json:
        from gateway.keys.objects import team_object

        print_json([team_object(team) for team in found])
    else:
        columns = ("ID", "NAME", "WEIGHT", "LIMITS", "CREATED")
        print_table(columns, map(_row, found), wrapped=("LIMITS",))


@teams.command("show")
def show(
    team: TeamArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Show a team's limits and how many keys it has.

    [b]Examples[/b]

      gateway teams show research
      gateway keys list --team research
    """

    async def work(tenancy: Tenancy) -> tuple[Team, int]:
        found = await find_team(tenancy, team)
        return found, await tenancy.active_keys(found.id)

    found, active = administer(config, assignments, work)
    _tell(found, as_json, ("active keys", str(active)))


@teams.command("update")
def update(
    team: TeamArgument,
    name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    max_concurrent: ConcurrentOption = None,
    budget: BudgetOption = None,
    weight: WeightOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Change a team; what isn't named stays, [b]none[/b] takes a limit or the budgets away.

    [b]Examples[/b]

      gateway teams update research --tpm 2m
      gateway teams update research --budget none --name science
    """
    fields = _fields(LimitOptions(rpm, tpm, max_concurrent, budget), weight, name)

    async def work(tenancy: Tenancy) -> Team:
        from gateway.protocol.tenancy import UpdateTeam

        found = await find_team(tenancy, team)
        return await tenancy.update_team(actor(), found.id, wire(UpdateTeam, fields))

    _tell(administer(config, assignments, work), as_json)


@teams.command("delete")
def delete(
    team: TeamArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Delete a team for good. Its keys are refused from then on.

    Where it has keys that work, it asks, or wants [b]--yes[/b].

    [b]Examples[/b]

      gateway teams delete research
      gateway keys update bot --team other    (first: what is to live on)
    """

    async def work(tenancy: Tenancy) -> Team:
        found = await find_team(tenancy, team)
        active = await tenancy.active_keys(found.id)
        if active and not yes:
            _confirm(found.name, active)
        return await tenancy.delete_team(actor(), found.id)

    gone = administer(config, assignments, work)
    typer.echo(f"deleted {gone.id}", err=True)


def _confirm(name: str, active: int) -> None:
    """Ends the program where nobody says yes."""
    what = f"{active} {'key stops' if active == 1 else 'keys stop'} working with team {name}"
    if not on_terminal():
        fail(f"{what}; add --yes", Exit.INVALID)
    typer.confirm(f"{what}. Delete it?", abort=True, err=True)


def _fields(limits: LimitOptions, weight: float | None, name: str | None) -> dict[str, Any]:
    given = {"name": name, "weight": weight}
    return {key: value for key, value in given.items() if value is not None} | limits.fields()


async def _all(tenancy: Tenancy) -> list[Team]:
    return await every(tenancy.teams)


def _tell(team: Team, as_json: bool, *more: tuple[str, str]) -> None:
    if as_json:
        from gateway.keys.objects import team_object

        print_json(team_object(team))
        return
    limits = ", ".join(limits_in_words(team.settings.limits))
    print_facts([
        ("id", team.id),
        ("name", team.name),
        ("limits", limits or "none"),
        ("weight", f"{team.settings.weight:g}"),
        ("created", moment(team.created)),
        *more,
    ])  # fmt: skip


def _row(team: Team) -> tuple[str, ...]:
    return (
        team.id,
        team.name,
        f"{team.settings.weight:g}",
        ", ".join(limits_in_words(team.settings.limits)),
        moment(team.created),
    )
