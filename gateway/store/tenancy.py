"""Keys, teams, and the log of who changed them: what is kept, as functions of a connection.

Changes are made between `lock` and `record`: one after the other, however many gateways there are,
each with its row in the log. The revision counts the log's rows, so from one number and the log
everyone learns what has changed since they last looked.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, func, or_, select, text, update

from gateway.store.paging import Order
from gateway.store.tenant_tables import audit_log, teams, tenancy_revision, virtual_keys
from gateway.tenants import Limits, Priority, Scopes

KeyStatus = Literal["active", "expired", "revoked", "team_deleted"]


class Previous(msgspec.Struct, frozen=True):
    """A secret that was rotated out and is good until then."""

    hash: bytes
    until: float


class KeySettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a key may do. `pepper` tells which pepper it was hashed with."""

    limits: Limits = Limits()
    scopes: Scopes = Scopes()
    weight: float = 1.0
    priority: Priority = "online"
    pepper: str = ""
    previous: Previous | None = None


class TeamSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a team's keys may do together."""

    limits: Limits = Limits()
    weight: float = 1.0


class Team(msgspec.Struct, frozen=True):
    """Keys that share limits. Times are seconds since the epoch."""

    id: str
    name: str
    created: float
    settings: TeamSettings = TeamSettings()
    deleted: float | None = None


class VirtualKey(msgspec.Struct, frozen=True):
    """A key, without what it is recognised by. Times are seconds since the epoch."""

    id: str
    prefix: str
    last4: str
    name: str
    created: float
    team: Team | None = None
    expires: float | None = None
    revoked: float | None = None
    settings: KeySettings = KeySettings()

    def status(self, now: float) -> KeyStatus:
        """Whether it is accepted, or why not."""
        if self.revoked is not None:
            return "revoked"
        if self.team is not None and self.team.deleted is not None:
            return "team_deleted"
        expired = self.expires is not None and self.expires <= now
        return "expired" if expired else "active"


class AuditEvent(msgspec.Struct, frozen=True):
    """Who (`actor`) did what (`action`) to which `object`, and when; `detail` is JSON."""

    at: float
    actor: str
    action: str
    object: str
    detail: bytes = b"{}"
    seq: int = 0


class KeysWanted(msgspec.Struct, frozen=True):
    """Which keys: those with all of this."""

    id: str | None = None
    name: str | None = None
    team: str | None = None
    status: KeyStatus | None = None


class EventsWanted(msgspec.Struct, frozen=True):
    """Which events of the log: those with all of this; `since` ≤ at < `until`."""

    actor: str | None = None
    action: str | None = None
    object: str | None = None
    since: float | None = None
    until: float | None = None


# --- changing ---


def lock(connection: Connection) -> None:
    """Keep other changes out until this transaction ends."""
    first = "INSERT INTO tenancy_revision (id, revision) VALUES (1, 0) ON CONFLICT (id) DO NOTHING"
    connection.execute(text(first))
    connection.execute(select(tenancy_revision.c.revision).with_for_update())


def record(connection: Connection, event: AuditEvent) -> None:
    """Write down a change that was made in this transaction, after `lock`, and make it known."""
    row = {name: getattr(event, name) for name in ("at", "actor", "action", "object", "detail")}
    connection.execute(audit_log.insert().values(row))
    revision = tenancy_revision.c.revision
    connection.execute(update(tenancy_revision).values(revision=revision + 1))


def insert_key(connection: Connection, key: VirtualKey, sealed: bytes) -> None:
    row = {"id": key.id, "created": key.created, "hash": sealed, **_key_row(key)}
    connection.execute(virtual_keys.insert().values(row))


def store_key(connection: Connection, key: VirtualKey, sealed: bytes | None = None) -> None:
    """Write what has changed; `sealed` is the hash of a new secret."""
    row = _key_row(key) | ({"hash": sealed} if sealed is not None else {})
    connection.execute(update(virtual_keys).where(virtual_keys.c.id == key.id).values(row))


def insert_team(connection: Connection, team: Team) -> None:
    row = {"id": team.id, "created": team.created, **_team_row(team)}
    connection.execute(teams.insert().values(row))


def store_team(connection: Connection, team: Team) -> None:
    connection.execute(update(teams).where(teams.c.id == team.id).values(_team_row(team)))


def key_hash(connection: Connection, key_id: str) -> bytes:
    query = select(virtual_keys.c.hash).where(virtual_keys.c.id == key_id)
    found: bytes = connection.execute(query).scalar_one()
    return found


def _key_row(key: VirtualKey) -> dict[str, Any]:
    return {
        "prefix": key.prefix,
        "last4": key.last4,
        "name": key.name,
        "team_id": key.team.id if key.team is not None else None,
        "expires": key.expires,
        "revoked": key.revoked,
        "settings": msgspec.json.encode(key.settings),
    }


def _team_row(team: Team) -> dict[str, Any]:
    return {
        "name": team.name,
        "settings": msgspec.json.encode(team.settings),
        "deleted": team.deleted,
    }


# --- finding ---


def find_keys(
    connection: Connection,
    wanted: KeysWanted,
    now: float,
    *,
    after: str | None = None,
    limit: int | None = None,
    order: Order = "asc",
) -> list[VirtualKey]:
    """By time of creation, which ids sort by."""
    query = select(virtual_keys, *_TEAM).outerjoin(teams).where(*_key_conditions(wanted, now))
    rows = connection.execute(_part(query, virtual_keys.c.id, after, limit, order))
    return [_virtual_key(row) for row in rows]


def key_exists(connection: Connection, key_id: str) -> bool:
    query = select(virtual_keys.c.id).where(virtual_keys.c.id == key_id)
    return connection.execute(query).first() is not None


def find_teams(
    connection: Connection,
    *conditions: ColumnElement[bool],
    deleted: bool = False,
    after: str | None = None,
    limit: int | None = None,
    order: Order = "asc",
) -> list[Team]:
    """By time of creation; `deleted`: those too."""
    query = select(*_TEAM).where(*conditions)
    if not deleted:
        query = query.where(teams.c.deleted.is_(None))
    rows = connection.execute(_part(query, teams.c.id, after, limit, order))
    return [_team(row) for row in rows]


def find_team(connection: Connection, team_id: str) -> Team | None:
    """Also one that was deleted."""
    return next(iter(find_teams(connection, teams.c.id == team_id, deleted=True)), None)


def team_named(connection: Connection, name: str, *, deleted: bool = False) -> Team | None:
    """`deleted`: also one that was."""
    return next(iter(find_teams(connection, teams.c.name == name, deleted=deleted)), None)


def count_active_keys(connection: Connection, team_id: str, now: float) -> int:
    wanted = _key_conditions(KeysWanted(team=team_id, status="active"), now)
    query = select(func.count()).select_from(virtual_keys.outerjoin(teams)).where(*wanted)
    return connection.execute(query).scalar_one()


def event_exists(connection: Connection, seq: int) -> bool:
    query = select(audit_log.c.seq).where(audit_log.c.seq == seq)
    return connection.execute(query).first() is not None


def find_events(
    connection: Connection,
    wanted: EventsWanted,
    *,
    after: int | None = None,
    limit: int,
    order: Order = "desc",
) -> list[AuditEvent]:
    """Events of the log; `after` is one's `seq`."""
    table = audit_log.c
    query = select(audit_log).where(
        *(
            getattr(table, name) == value
            for name in ("actor", "action", "object")
            if (value := getattr(wanted, name)) is not None
        )
    )
    if wanted.since is not None:
        query = query.where(table.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(table.at < wanted.until)
    rows = connection.execute(_part(query, table.seq, after, limit, order))
    return [
        AuditEvent(row.at, row.actor, row.action, row.object, row.detail, row.seq) for row in rows
    ]


_TEAM = tuple(
    teams.c[name].label(f"team__{name}")
    for name in ("id", "name", "created", "settings", "deleted")
)


def _part(
    query: Select[Any], column: ColumnElement[Any], after: Any, limit: int | None, order: Order
) -> Select[Any]:
    if after is not None:
        query = query.where(column > after if order == "asc" else column < after)
    return query.order_by(column.asc() if order == "asc" else column.desc()).limit(limit)


def _key_conditions(wanted: KeysWanted, now: float) -> list[ColumnElement[bool]]:
    table = virtual_keys.c
    found: list[ColumnElement[bool]] = []
    if wanted.id is not None:
        found.append(table.id == wanted.id)
    if wanted.name is not None:
        found.append(table.name == wanted.name)
    if wanted.team is not None:
        found.append(table.team_id == wanted.team)
    if wanted.status == "revoked":
        found.append(table.revoked.is_not(None))
    elif wanted.status == "team_deleted":
        found += [table.revoked.is_(None), teams.c.deleted.is_not(None)]
    elif wanted.status is not None:
        expired = table.expires <= now
        lasting = or_(table.expires.is_(None), table.expires > now)
        found += [
            table.revoked.is_(None),
            teams.c.deleted.is_(None),
            expired if wanted.status == "expired" else lasting,
        ]
    return found


def _virtual_key(row: Row[Any]) -> VirtualKey:
    return VirtualKey(
        id=row.id,
        prefix=row.prefix,
        last4=row.last4,
        name=row.name,
        created=row.created,
        team=_team(row) if row.team__id is not None else None,
        expires=row.expires,
        revoked=row.revoked,
        settings=msgspec.json.decode(row.settings, type=KeySettings),
    )


def _team(row: Row[Any]) -> Team:
    settings = msgspec.json.decode(row.team__settings, type=TeamSettings)
    return Team(row.team__id, row.team__name, row.team__created, settings, row.team__deleted)
