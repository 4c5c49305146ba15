"""`gateway usage`: what was used, by whom, from the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands import ConfigOption, Exit, SetOption, config_or_exit, fail, fail_of
from gateway.commands.quantities import parse_duration
from gateway.commands.tables import print_table
from gateway.commands.tenancy import JsonOption

if TYPE_CHECKING:
    from gateway.config import GatewayConfig
    from gateway.protocol.usage import Dimension
    from gateway.store.database import Database
    from gateway.store.usage import Filter

PAGE = 1000


def _option(name: str, what: str) -> Any:
    return typer.Option(name, metavar=name[2:].upper(), help=what)


def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="WHAT",
            help="day, key, team, model, caller, endpoint, outcome: one or more, separated by "
            "commas, or given again; [b]all[/b]: one sum. Default: day.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="A date or time (ISO 8601, UTC), or how long ago: 12h, 7d. Default: 30d.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="The same. Default: now.")
    ] = None,
    key: Annotated[str | None, _option("--key", "Only this key: its id or name.")] = None,
    team: Annotated[str | None, _option("--team", "Only this team: its id or name.")] = None,
    model: Annotated[str | None, _option("--model", "Only this model.")] = None,
    caller: Annotated[str | None, _option("--caller", "Only this caller's name.")] = None,
    endpoint: Annotated[str | None, _option("--endpoint", "Only this path.")] = None,
    outcome: Annotated[
        str | None,
        _option(
            "--outcome", "Only completed, cancelled, interrupted, rejected, failed or lost ones."
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    as_json: JsonOption = False,
    rows: Annotated[
        bool, typer.Option("--rows", help="Each request's row, a JSON object a line.")
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Show requests, tokens and cost, summed up.

    Reads the state database ([b]state.url[/b]), whether or not a gateway runs on it; what
    one has ended within the last second or so may be missing.

    [b]Examples[/b]

      gateway usage
      gateway usage --by team,model --since 2030-01-01 --until 2030-02-01 --csv
      gateway usage --by key --team research --since 7d
      gateway usage --by all --outcome completed --json
      gateway usage --rows --since 1h | jq .ttft_s

    [b]Exit codes[/b]  0 done · 1 no such key or team, or the database failed ·
    2 wrong usage or configuration
    """
    if sum((as_csv, as_json, rows)) > 1:
        fail("--csv, --json and --rows exclude one another", Exit.INVALID)
    from gateway.protocol.usage import OUTCOMES, default_since, dimensions
    from gateway.store.usage import Filter

    now = time.time()
    end = _moment("--until", until, now) if until else now
    only = Filter(
        since=_moment("--since", since, now) if since else default_since(end),
        until=end,
        key=key,
        team=team,
        model=model,
        caller=caller,
        endpoint=endpoint,
        outcome=outcome,
    )
    try:
        wanted = dimensions(",".join(by or ["day"]))
    except ValueError as error:
        fail(f"--by: {error}", Exit.INVALID)
    if outcome is not None and outcome not in OUTCOMES:
        fail(f"--outcome: expected one of {', '.join(OUTCOMES)}, not '{outcome}'", Exit.INVALID)
    loaded = config_or_exit(config, assignments, {})
    if rows:
        _on_database(loaded, partial(_print_rows, only=only))
        return
    groups = _on_database(
        loaded, partial(_all_groups, by=wanted, only=only, named=not (as_csv or as_json))
    )
    _print(groups, wanted, only, as_csv=as_csv, as_json=as_json)


def _moment(option: str, text: str, now: float) -> float:
    from gateway.protocol.usage import in_calendar, moment

    try:
        ago = parse_duration(text)
    except ValueError:
        ago = None
    try:
        return moment(text) if ago is None else in_calendar(now - ago, text)
    except ValueError as error:
        fail(f"{option}: {error}; or how long ago, such as 7d", Exit.INVALID)


def _on_database(config: GatewayConfig, work: Callable[[Database], Awaitable[Any]]) -> Any:
    """Run `work`, ending the program with the reason where it fails."""
    from gateway.config import ConfigError
    from gateway.errors import APIError
    from gateway.store.database import Database

    async def run() -> Any:
        database = Database(config.state.url)
        try:
            if database.in_memory:
                raise ConfigError(
                    "state.url: state in memory is seen by the gateway that has it alone: use its "
                    "admin API, /admin/v1/usage, or name a database"
                )
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except ConfigError as error:
        fail_of(error)
    except APIError as error:
        fail(error.message)


async def _all_groups(
    database: Database, by: Sequence[Dimension], only: Filter, *, named: bool
) -> list[dict[str, Any]]:
    """`named`: for people, who know keys and teams by their names."""
    from gateway.protocol.usage import told
    from gateway.store import usage as store

    # At once: of parts, some would be told twice or not at all where rows arrive in between.
    found = [told(group) for group in await database.read(partial(store.sums, by=by, only=only))]
    for of in ("key", "team"):
        if named and of in by:
            names = await database.read(partial(store.names, of=of))
            for group in found:
                group[of] = _named(group[of], names)
    return found


def _named(given: str | None, names: Mapping[str, str]) -> str | None:
    """`my-app (key_…)`; a key without a name has its id for one, and a deleted team's name has
    its id already."""
    if given is None:
        return None
    name = names.get(given) or given
    return name if given in name else f"{name} ({given})"


async def _print_rows(database: Database, only: Filter) -> None:
    import msgspec

    from gateway.protocol.usage import money
    from gateway.store import usage as store

    page: list[Any] = await database.read(partial(store.rows, only=only, limit=PAGE))
    while page:
        for row in page:
            shown = {name: row[name] for name in row if name != "seq"}
            typer.echo(msgspec.json.encode({**shown, "cost": money(row["cost"])}))
        page = await database.read(partial(store.rows, only=only, after=page[-1], limit=PAGE))


def _print(
    groups: Sequence[dict[str, Any]],
    by: Sequence[Dimension],
    only: Filter,
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    import msgspec

    from gateway.protocol import usage as protocol

    if as_json:
        found = protocol.answer(groups, by, only.since, only.until)
        typer.echo(msgspec.json.format(msgspec.json.encode(found)))
    elif as_csv:
        typer.echo(protocol.as_csv(groups, by), nl=False)
    elif not groups or not groups[0]["requests"]:
        typer.echo("no requests in this time", err=True)
    else:
        columns = [*by, *protocol.COUNTS, "cost"]
        print_table(columns, [[_cell(group[name]) for name in columns] for group in groups])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
