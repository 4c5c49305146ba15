"""Keys on the command line: found by what people call them, and shown."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import typer

from gateway.commands import Exit, fail
from gateway.commands.tables import moment, print_facts
from gateway.commands.tenancy import ALL, every, limits_in_words, print_json

if TYPE_CHECKING:
    from gateway.keys import Tenancy
    from gateway.store.tenancy import KeysWanted, VirtualKey


async def all_keys(tenancy: Tenancy, wanted: KeysWanted) -> list[VirtualKey]:
    return await every(partial(tenancy.keys, wanted))


async def find_key(tenancy: Tenancy, name: str) -> VirtualKey:
    """By its id, or by a name that only one has. Raises NotFoundError."""
    from gateway.errors import NotFoundError
    from gateway.keys.secret import PREFIX
    from gateway.store.tenancy import KeysWanted

    if name.startswith(PREFIX):
        fail("that is a key itself, which should stay secret; name it by its id", Exit.INVALID)
    named = await all_keys(tenancy, KeysWanted(name=name))
    named = [key for key in named if key.revoked is None] or named
    if len(named) > 1:
        ids = ", ".join(key.id for key in named)
        fail(f"{len(named)} keys are called '{name}': name one by its id: {ids}", Exit.INVALID)
    if named:
        return named[0]
    try:
        return await tenancy.key(name)
    except NotFoundError:
        raise NotFoundError(f"No key found with the name or id '{name[:128]}'.") from None


def tell_secret(key: VirtualKey, secret: str, as_json: bool) -> None:
    try:
        _tell_secret(key, secret, as_json)
    except OSError:
        fail(f"the key {key.id} exists, and its secret was not shown: rotate or revoke it")


def _tell_secret(key: VirtualKey, secret: str, as_json: bool) -> None:
    if as_json:
        from gateway.keys.objects import key_object

        print_json(key_object(key, time.time(), secret))
        return
    print_facts(_facts(key), stderr=True)
    typer.echo("Keep the key: it isn't shown again. Gateways accept it within a second.", err=True)
    typer.echo(secret)


def tell(key: VirtualKey, as_json: bool) -> None:
    if as_json:
        from gateway.keys.objects import key_object

        print_json(key_object(key, time.time()))
    else:
        print_facts(_facts(key))


def _facts(key: VirtualKey) -> list[tuple[str, str]]:
    from gateway.keys.secret import redacted

    settings, team = key.settings, key.team
    scopes = settings.scopes
    until = moment(settings.previous.until) if settings.previous is not None else None
    return [
        ("id", key.id),
        ("name", key.name),
        ("key", redacted(key.prefix, key.last4)),
        *([("old key until", until)] if until is not None else []),
        ("status", key.status(time.time())),
        ("team", f"{team.name} ({team.id})" if team is not None else "none"),
        ("limits", ", ".join(limits_in_words(settings.limits)) or "none of its own"),
        ("models", ALL if scopes.models is None else ", ".join(sorted(scopes.models))),
        ("endpoints", ALL if scopes.endpoints is None else ", ".join(scopes.endpoints)),
        (
            "weight",
            f"{settings.weight:g}" if team is None else f"{team.settings.weight:g}, its team's",
        ),
        ("priority", settings.priority),
        ("created", moment(key.created)),
        ("expires", moment(key.expires, "never")),
        *([("revoked", moment(key.revoked))] if key.revoked is not None else []),
    ]


def key_row(key: VirtualKey, now: float) -> tuple[str, ...]:
    from gateway.keys.secret import redacted

    return (
        key.id,
        key.name,
        redacted(key.prefix, key.last4),
        key.team.name if key.team is not None else "",
        key.status(now),
        ", ".join(limits_in_words(key.settings.limits)),
        moment(key.expires, "never"),
    )
