"""`gateway keys`: virtual keys."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands import ConfigOption, Exit, SetOption, fail
from gateway.commands.key_options import (
    EndpointOption,
    ExpiresOption,
    KeyArgument,
    KeyOptions,
    ModelOption,
    PriorityOption,
    TeamOption,
)
from gateway.commands.key_output import all_keys, find_key, key_row, tell, tell_secret
from gateway.commands.quantities import NONE, parse_duration
from gateway.commands.tables import print_table
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
    find_team,
    print_json,
    read,
    wire,
)

if TYPE_CHECKING:
    from gateway.keys import Tenancy
    from gateway.store.tenancy import VirtualKey

keys = typer.Typer(
    name="keys",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Virtual keys: who may call, and how much.

    The commands work on the state database ([b]state.url[/b]), whether or not a
    gateway runs on it; one that does obeys within a second. Keys are named by
    their id or their name.

    [b]Examples[/b]

      gateway keys create my-app --tpm 100k --budget cost=25/month
      gateway keys create bot --team research --model my-model --expires 30d
      gateway keys update my-app --rpm 60 --budget none
      gateway keys rotate my-app --grace 1h
      gateway keys revoke my-app

    [b]Exit codes[/b]  0 done · 1 no such key, or the database failed ·
    2 wrong usage or configuration
    """,
)


@keys.command("create")
def create(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="For people. Default: its id.")
    ] = None,
    team: TeamOption = None,
    models: ModelOption = None,
    endpoints: EndpointOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    max_concurrent: ConcurrentOption = None,
    budget: BudgetOption = None,
    weight: WeightOption = None,
    priority: PriorityOption = None,
    expires: ExpiresOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Make a key, and print it: it can't be shown again.

    The key alone goes to stdout, what it may do to stderr.

    [b]Examples[/b]

      gateway keys create my-app
      OPENAI_API_KEY=$(gateway keys create my-app --tpm 100k --max-concurrent 8)
      gateway keys create nightly --priority batch --budget tokens=50m/week
      gateway keys create bot --team research --model my-model --expires 30d
    """
    if team is not None and team.lower() == NONE:
        fail("--team: a new key is in no team that it could leave: leave it out", Exit.INVALID)
    limits = LimitOptions(rpm, tpm, max_concurrent, budget)
    options = KeyOptions(limits, name, team, models, endpoints, weight, priority, expires)
    fields = options.fields()

    async def work(tenancy: Tenancy) -> tuple[VirtualKey, str]:
        from gateway.protocol.tenancy import CreateKey

        wanted = wire(CreateKey, fields | await options.of_team(tenancy))
        return await tenancy.create_key(actor(), wanted)

    tell_secret(*administer(config, assignments, work), as_json)


@keys.command("list")
def list_keys(
    team: Annotated[
        str | None, typer.Option("--team", metavar="TEAM", help="Only those of this team.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Revoked ones too.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """List keys, the oldest first.

    [b]Examples[/b]

      gateway keys list --team research
      gateway keys list --json | jq -r '.[] | select(.status == "expired") | .id'
    """

    async def work(tenancy: Tenancy) -> list[VirtualKey]:
        from gateway.store.tenancy import KeysWanted

        of_team = (await find_team(tenancy, team)).id if team is not None else None
        found = await all_keys(tenancy, KeysWanted(team=of_team))
        return [key for key in found if everything or key.revoked is None]

    found, now = administer(config, assignments, work), time.time()
    if as_json:
        from gateway.keys.objects import key_object

        print_json([key_object(key, now) for key in found])
    else:
        columns = ("ID", "NAME", "KEY", "TEAM", "STATUS", "LIMITS", "EXPIRES")
        print_table(columns, (key_row(key, now) for key in found), wrapped=("LIMITS",))


@keys.command("show")
def show(
    key: KeyArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Show what a key may do; not the key itself.

    [b]Examples[/b]

      gateway keys show my-app
      gateway keys show my-app --json | jq .budgets
    """
    found = administer(config, assignments, lambda tenancy: find_key(tenancy, key))
    tell(found, as_json)


@keys.command("update")
def update(
    key: KeyArgument,
    name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    team: TeamOption = None,
    models: ModelOption = None,
    endpoints: EndpointOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    max_concurrent: ConcurrentOption = None,
    budget: BudgetOption = None,
    weight: WeightOption = None,
    priority: PriorityOption = None,
    expires: ExpiresOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Change a key; what isn't named stays.

    [b]none[/b] takes a limit, the budgets or the team away, [b]all[/b] a restriction to
    models or endpoints, [b]never[/b] the expiry. Budgets, models and endpoints that
    are named replace those there were.

    [b]Examples[/b]

      gateway keys update my-app --tpm 200k --rpm none
      gateway keys update my-app --budget tokens=1m/day --budget cost=25/month
      gateway keys update my-app --model all --expires never --team none
    """
    limits = LimitOptions(rpm, tpm, max_concurrent, budget)
    options = KeyOptions(limits, name, team, models, endpoints, weight, priority, expires)
    fields = options.fields()

    async def work(tenancy: Tenancy) -> VirtualKey:
        from gateway.protocol.tenancy import UpdateKey

        found = await find_key(tenancy, key)
        wanted = wire(UpdateKey, fields | await options.of_team(tenancy))
        return await tenancy.update_key(actor(), found.id, wanted)

    tell(administer(config, assignments, work), as_json)


@keys.command("rotate")
def rotate(
    key: KeyArgument,
    grace: Annotated[
        str,
        typer.Option("--grace", metavar="TIME", help="Accept the old one so long, e.g. 1h or 2d."),
    ] = "0s",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Replace the secret of a key, and print the new one; all else of the key stays.

    Without --grace the old secret is refused from now on.

    [b]Examples[/b]

      gateway keys rotate my-app
      gateway keys rotate my-app --grace 1h
    """
    grace_s = read("--grace", parse_duration, grace)

    async def work(tenancy: Tenancy) -> tuple[VirtualKey, str]:
        from gateway.protocol.tenancy import RotateKey

        found = await find_key(tenancy, key)
        wanted = wire(RotateKey, {"grace_s": grace_s})
        return await tenancy.rotate_key(actor(), found.id, wanted.grace_s)

    tell_secret(*administer(config, assignments, work), as_json)


@keys.command("revoke")
def revoke(
    key: KeyArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Refuse a key from now on, for good. Once more changes nothing.

    [b]Examples[/b]

      gateway keys revoke my-app
      gateway keys revoke key_019a3c…
    """

    async def work(tenancy: Tenancy) -> VirtualKey:
        found = await find_key(tenancy, key)
        return await tenancy.revoke_key(actor(), found.id)

    tell(administer(config, assignments, work), as_json)
