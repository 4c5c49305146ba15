"""What may be done to keys and teams, and what the audit log says of it: functions of a connection
that has the lock. They raise NotFoundError (404) where there is no such key or team, and
InvalidRequestError (400, 409) for what can't be."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from gateway.config import ConfigError
from gateway.errors import InvalidRequestError, NotFoundError
from gateway.keys.objects import differences, key_fields, team_fields
from gateway.keys.secret import PREFIX, Seal
from gateway.protocol.tenancy import CreateKey, CreateTeam, KeyFields, UpdateKey, UpdateTeam
from gateway.store import tenancy
from gateway.store.tenancy import (
    KeySettings,
    KeysWanted,
    Previous,
    Team,
    TeamSettings,
    VirtualKey,
)
from gateway.store.tenancy_view import made_with_another


class Done(NamedTuple):
    """What was done, for the audit log."""

    action: str
    object: str
    detail: Mapping[str, Any]


KeyChanged = tuple[VirtualKey, Done | None]
TeamChanged = tuple[Team, Done | None]


def create_key(
    connection: Connection, now: float, wanted: CreateKey, secret: str, seal: Seal
) -> KeyChanged:
    _require_same_pepper(connection, seal)
    blank = VirtualKey(
        id=_new_id("key", now),
        prefix=PREFIX,
        last4=secret[-4:],
        name="",
        created=now,
        settings=KeySettings(pepper=seal.fingerprint),
    )
    key = _changed_key(connection, now, blank, wanted)
    tenancy.insert_key(connection, key, seal(secret.encode()))
    return key, Done("key.create", key.id, key_fields(key))


def update_key(connection: Connection, now: float, key_id: str, wanted: UpdateKey) -> KeyChanged:
    before = _unrevoked(connection, now, key_id)
    after = _changed_key(connection, now, before, wanted)
    changed = differences(key_fields(before), key_fields(after))
    if not changed:
        return before, None
    tenancy.store_key(connection, after)
    return after, Done("key.update", key_id, changed)


def rotate_key(
    connection: Connection, now: float, key_id: str, secret: str, seal: Seal, grace_s: float
) -> KeyChanged:
    before = _unrevoked(connection, now, key_id)
    replaced = tenancy.key_hash(connection, key_id)
    settings = msgspec.structs.replace(
        before.settings,
        pepper=seal.fingerprint,
        previous=Previous(replaced, now + grace_s) if grace_s else None,
    )
    after = msgspec.structs.replace(before, last4=secret[-4:], settings=settings)
    tenancy.store_key(connection, after, seal(secret.encode()))
    last4 = {"from": before.last4, "to": after.last4}
    return after, Done("key.rotate", key_id, {"last4": last4, "grace_s": grace_s})


def revoke_key(connection: Connection, now: float, key_id: str) -> KeyChanged:
    before = find_key(connection, now, key_id)
    if before.revoked is not None:
        return before, None
    settings = msgspec.structs.replace(before.settings, previous=None)
    after = msgspec.structs.replace(before, revoked=now, settings=settings)
    tenancy.store_key(connection, after)
    return after, Done("key.revoke", key_id, {"name": before.name})


def create_team(connection: Connection, now: float, wanted: CreateTeam) -> TeamChanged:
    blank = Team(_new_id("team", now), wanted.name, now)
    team = _changed_team(connection, blank, wanted)
    tenancy.insert_team(connection, team)
    return team, Done("team.create", team.id, team_fields(team))


def update_team(connection: Connection, team_id: str, wanted: UpdateTeam) -> TeamChanged:
    before = find_team(connection, team_id)
    after = _changed_team(connection, before, wanted)
    changed = differences(team_fields(before), team_fields(after))
    if not changed:
        return before, None
    tenancy.store_team(connection, after)
    return after, Done("team.update", team_id, changed)


def delete_team(connection: Connection, now: float, team_id: str) -> TeamChanged:
    before = tenancy.find_team(connection, team_id)
    if before is None:
        raise _no_team(team_id)
    if before.deleted is not None:
        return before, None
    keys = tenancy.count_active_keys(connection, team_id, now)
    # Its name is free again, and reports still tell it.
    name = f"{before.name} ({team_id})"
    if tenancy.team_named(connection, name, deleted=True) is not None:
        name = team_id  # which no other team can have for a name
    after = msgspec.structs.replace(before, name=name, deleted=now)
    tenancy.store_team(connection, after)
    return after, Done("team.delete", team_id, {"name": before.name, "active_keys": keys})


def find_key(connection: Connection, now: float, key_id: str) -> VirtualKey:
    """Raises NotFoundError (404)."""
    found = tenancy.find_keys(connection, KeysWanted(id=key_id), now)
    if not found:
        raise NotFoundError(f"No key found with id '{key_id[:128]}'.", code="key_not_found")
    return found[0]


def find_team(connection: Connection, team_id: str, param: str | None = None) -> Team:
    """One that wasn't deleted; `param` is the field its id was in. Raises NotFoundError (404)."""
    found = tenancy.find_team(connection, team_id)
    if found is None or found.deleted is not None:
        raise _no_team(team_id, param)
    return found


def _require_same_pepper(connection: Connection, seal: Seal) -> None:
    """Raises ConfigError where keys would be left behind that aren't recognised with it."""
    others = made_with_another(connection, seal.fingerprint)
    if others:
        raise ConfigError(
            f"auth: the keys' pepper isn't the one that {others[0]} was made with"
            f"{f', nor {len(others) - 1} more' if len(others) > 1 else ''}: put that one back, "
            "or rotate or revoke what was made with it"
        )


def _unrevoked(connection: Connection, now: float, key_id: str) -> VirtualKey:
    found = find_key(connection, now, key_id)
    if found.revoked is not None:
        raise InvalidRequestError(
            f"The key '{key_id}' was revoked and stays so; make a new one.",
            status=409,
            code="key_revoked",
        )
    return found


def _changed_key(
    connection: Connection, now: float, before: VirtualKey, wanted: KeyFields
) -> VirtualKey:
    given = wanted.model_fields_set
    team, expires = before.team, before.expires
    if "team" in given:
        team = None if wanted.team is None else find_team(connection, wanted.team, "team")
    if "expires_at" in given:
        expires = wanted.expires_at
        if expires is not None and expires <= now:
            raise _invalid("expires_at", "it is in the past; to end a key now, revoke it")
    if team is not None and wanted.weight is not None:
        raise _invalid("weight", "a key in a team shares the team's weight; set that one")
    settings = before.settings
    weight = wanted.weight if "weight" in given else settings.weight
    priority = wanted.priority if "priority" in given else settings.priority
    return msgspec.structs.replace(
        before,
        name=(wanted.name if "name" in given else before.name) or before.id,
        team=team,
        expires=expires,
        settings=msgspec.structs.replace(
            settings,
            limits=wanted.limits(settings.limits),
            scopes=wanted.scopes(settings.scopes),
            weight=1.0 if team is not None else weight or 1.0,
            priority=priority or "online",
        ),
    )


def _changed_team(connection: Connection, before: Team, wanted: CreateTeam | UpdateTeam) -> Team:
    name = wanted.name or before.name
    namesake = tenancy.team_named(connection, name, deleted=True)
    if namesake is not None and namesake.id != before.id:
        why = "already" if namesake.deleted is None else "that was deleted"
        raise InvalidRequestError(
            f"There is a team `{name}` {why}.", status=409, code="name_taken", param="name"
        )
    given = "weight" in wanted.model_fields_set
    weight = (wanted.weight or 1.0) if given else before.settings.weight
    settings = TeamSettings(wanted.limits(before.settings.limits), weight)
    return msgspec.structs.replace(before, name=name, settings=settings)


def _no_team(team_id: str, param: str | None = None) -> NotFoundError:
    return NotFoundError(
        f"No team found with id '{team_id[:128]}'.", code="team_not_found", param=param
    )


def _invalid(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid '{param}': {why}.", code="invalid_value", param=param)


def _new_id(kind: str, now: float) -> str:
    """Sorts by time, to the millisecond."""
    return f"{kind}_{int(now * 1000):012x}{secrets.token_hex(6)}"
