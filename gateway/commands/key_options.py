"""What can be said of a key on the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands import Exit, fail
from gateway.commands.quantities import NONE, parse_expiry
from gateway.commands.tenancy import ALL, LimitOptions, find_team, read

if TYPE_CHECKING:
    from gateway.keys import Tenancy

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id, or its name.")]
TeamOption = Annotated[
    str | None,
    typer.Option("--team", metavar="TEAM", help="Its name or id: the key obeys its limits too."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME", help="Only this model. Repeatable; all: every one."),
]
EndpointOption = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        metavar="PATH",
        help="Only this path, e.g. /v1/chat/completions, and all below it. Repeatable; or all.",
    ),
]
PriorityOption = Annotated[
    str | None,
    typer.Option("--priority", metavar="CLASS", help="online, or batch: after all online work."),
]
ExpiresOption = Annotated[
    str | None,
    typer.Option("--expires", metavar="WHEN", help="30d, 2030-01-31, 2030-01-31T12:00; or never."),
]


@dataclass(frozen=True)
class KeyOptions:
    """What was typed of a key; None: not said."""

    limits: LimitOptions
    name: str | None
    team: str | None
    models: Sequence[str] | None
    endpoints: Sequence[str] | None
    weight: float | None
    priority: str | None
    expires: str | None

    def fields(self) -> dict[str, Any]:
        """As the admin API takes them, but for the team."""
        plain = {"name": self.name, "weight": self.weight, "priority": self.priority}
        found: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
        for name, given in (("models", self.models), ("endpoints", self.endpoints)):
            if given:
                if ALL in given and {*given} != {ALL}:
                    why = f"'{ALL}' is every one: leave it or the others out"
                    fail(f"--{name.removesuffix('s')}: {why}", Exit.INVALID)
                found[name] = None if ALL in given else list(given)
        if self.expires is not None:
            until = partial(parse_expiry, now=time.time())
            found["expires_at"] = read("--expires", until, self.expires)
        return found | self.limits.fields()

    async def of_team(self, tenancy: Tenancy) -> dict[str, Any]:
        if self.team is None:
            return {}
        none = self.team.lower() == NONE
        return {"team": None if none else (await find_team(tenancy, self.team)).id}
