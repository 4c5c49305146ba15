"""What `gateway keys` and `gateway teams` share: their options, and the state database they work
on, whether or not a gateway runs on it."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from gateway.commands import Exit, config_or_exit, errors_in_json, fail, fail_of, finite
from gateway.commands.quantities import NONE, parse_budget, parse_count

if TYPE_CHECKING:
    from gateway.config import GatewayConfig
    from gateway.keys import Tenancy
    from gateway.protocol.parse import Wire
    from gateway.store.paging import Slice
    from gateway.store.tenancy import Team
    from gateway.tenants import Limits

T = TypeVar("T")


class Named(Protocol):
    """What lists are made of."""

    @property
    def id(self) -> str: ...


N = TypeVar("N", bound=Named)

ALL = "all"
PAGE = 1000

RpmOption = Annotated[
    str | None,
    typer.Option("--rpm", metavar="N", help="Requests per minute, e.g. 60; [b]none[/b]: no limit."),
]
TpmOption = Annotated[
    str | None,
    typer.Option(
        "--tpm", metavar="N", help="Tokens per minute, prompt and completion, e.g. 100k; or none."
    ),
]
ConcurrentOption = Annotated[
    str | None,
    typer.Option("--max-concurrent", metavar="N", help="Requests at once; or none."),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="UNIT=AMOUNT/WINDOW",
        help="[b]tokens=1m/day[/b] or [b]cost=25/month[/b] (in your currency, by the models' "
        "prices); windows: hour, day, week, month (where none is named), total, by the UTC "
        "calendar. Repeatable; [b]none[/b]: no budget.",
    ),
]


async def every(read: Callable[[Slice], Awaitable[tuple[list[N], bool]]]) -> list[N]:
    """All of a list that is read in parts."""
    from gateway.store.paging import Slice

    found: list[N] = []
    has_more = True
    while has_more:
        after = found[-1].id if found else None
        page, has_more = await read(Slice(limit=PAGE, after=after))
        found += page
    return found


WeightOption = Annotated[
    float | None,
    typer.Option(
        "--weight", metavar="X", help="Share of a busy engine, beside others' 1.", callback=finite
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="As JSON, like the admin API.", callback=errors_in_json),
]


@dataclass(frozen=True)
class LimitOptions:
    """Limits as they were typed; None: not said."""

    rpm: str | None
    tpm: str | None
    max_concurrent: str | None
    budgets: Sequence[str] | None

    def fields(self) -> dict[str, Any]:
        """As the admin API takes them. Ends the program where one can't be read."""
        found: dict[str, Any] = {}
        for option in ("rpm", "tpm", "max_concurrent"):
            if (text := getattr(self, option)) is not None:
                found[option] = read(f"--{option.replace('_', '-')}", parse_count, text)
        if self.budgets:
            given = [text for text in self.budgets if text.lower() != NONE]
            found["budgets"] = [read("--budget", parse_budget, text) for text in given]
        return found


def read(option: str, parse: Callable[[str], T], text: str) -> T:
    """`parse(text)`, ending the program with 2 and the reason where it can't be."""
    try:
        return parse(text)
    except ValueError as error:
        fail(f"{option}: {error}", Exit.INVALID)


def wire(model: type[Wire], fields: dict[str, Any]) -> Wire:
    """Validated as the admin API does it. Raises InvalidRequestError."""
    import msgspec

    from gateway.protocol.parse import parse

    try:
        body = msgspec.json.encode(fields)
    except UnicodeEncodeError:
        fail("what was typed is not UTF-8 text", Exit.INVALID)
    return parse(model, body)


def administer(
    config: str | None,
    assignments: Sequence[str] | None,
    work: Callable[[Tenancy], Awaitable[T]],
) -> T:
    """Run `work` on the state database of a configuration, ending the program with the reason
    where it fails."""
    loaded = config_or_exit(config, assignments, {})
    from gateway.config import ConfigError
    from gateway.errors import APIError

    try:
        return asyncio.run(_administer(loaded, work))
    except ConfigError as error:
        fail_of(error)
    except APIError as error:
        fail(error.message, Exit.INVALID if error.status == 400 else Exit.FAILED)


async def _administer(config: GatewayConfig, work: Callable[[Tenancy], Awaitable[T]]) -> T:
    from gateway.config import ConfigError
    from gateway.keys import Pepper, Tenancy
    from gateway.store.database import Database

    database = Database(config.state.url)
    try:
        if database.in_memory:
            raise ConfigError(
                "state.url: state in memory is seen by the gateway that has it alone: use its "
                "admin API, or name a database"
            )
        return await work(Tenancy(database, Pepper(config.auth, database)))
    finally:
        await database.close()


def actor() -> str:
    """Who types, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return f"cli:{os.getuid()}"


async def find_team(tenancy: Tenancy, name: str) -> Team:
    """By its name or id. Raises NotFoundError."""
    from gateway.errors import NotFoundError

    if (named := await tenancy.team_named(name)) is not None:
        return named
    try:
        return await tenancy.team(name)
    except NotFoundError:
        raise NotFoundError(f"No team found with the name or id '{name[:128]}'.") from None


def print_json(value: Any) -> None:
    import msgspec

    from gateway.keys.objects import encode

    typer.echo(msgspec.json.format(encode(value)).decode())


def limits_in_words(limits: Limits) -> list[str]:
    """Each limit as one would say it; none: an empty list."""
    from gateway.tenants import NANOS

    counted = [
        (limits.rpm, "requests/min"),
        (limits.tpm, "tokens/min"),
        (limits.max_concurrent, "at once"),
    ]
    words = [f"{count:,} {what}" for count, what in counted if count is not None]
    for budget in limits.budgets:
        tokens = budget.unit == "tokens"
        amount = f"{budget.amount:,} tokens" if tokens else f"cost {budget.amount / NANOS:,.10g}"
        words.append(f"{amount}/{budget.window}")
    return words
