"""What a gateway has to know of keys and teams to let requests in, and what has changed of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, func, or_, select

from gateway.store.tenancy import KeySettings, Team, TeamSettings
from gateway.store.tenant_tables import audit_log, teams, tenancy_revision, virtual_keys

logger = logging.getLogger(__name__)

# With more changes than this at once, reading everything anew is as quick.
MAX_CHANGES = 2000
_IDS_AT_ONCE = 500

T = TypeVar("T")


class Mark(msgspec.Struct, frozen=True):
    """How far somebody has read: the revision, and the last event of the log."""

    revision: int
    seq: int


class LiveKey(msgspec.Struct, frozen=True, gc=False):
    """A key that was not revoked, and what it is recognised by."""

    id: str
    hash: bytes
    name: str
    team_id: str | None
    expires: float | None
    settings: KeySettings


class News(msgspec.Struct, frozen=True):
    """What has changed until `mark`: all of `changed` is to be forgotten, None: everything; then
    `keys` and `teams` are there. `any_keys`: whether a key was ever made."""

    mark: Mark
    any_keys: bool
    changed: Sequence[str] | None
    keys: Sequence[LiveKey]
    teams: Sequence[Team]


def news(connection: Connection, seen: Mark | None, now: float) -> News | None:
    """What is new since `seen`; None: nothing. What others change meanwhile may be in it already,
    and is in the next again."""
    revision = connection.execute(select(tenancy_revision.c.revision)).scalar() or 0
    if seen is not None and revision == seen.revision:
        return None
    if seen is not None:
        events = select(audit_log.c.seq, audit_log.c.object).where(audit_log.c.seq > seen.seq)
        rows = connection.execute(events.order_by(audit_log.c.seq).limit(MAX_CHANGES)).all()
        # Each event counted the revision up by one. Fewer: some were deleted from the log.
        if revision - seen.revision <= len(rows) < MAX_CHANGES:
            mark = Mark(seen.revision + len(rows), rows[-1].seq)
            changed = sorted({row.object for row in rows})
            keys, found = _keys(connection, now, changed), _teams(connection, changed)
            return News(mark, any_keys(connection), changed, list(keys), list(found))
    # The mark first: whatever is committed after it is seen twice rather than never.
    last = select(func.max(audit_log.c.seq)).scalar_subquery()
    both = connection.execute(select(tenancy_revision.c.revision, last)).first()
    mark = Mark(both[0], both[1] or 0) if both is not None else Mark(0, 0)
    keys, found = _keys(connection, now, None), _teams(connection, None)
    return News(mark, any_keys(connection), None, list(keys), list(found))


def any_keys(connection: Connection) -> bool:
    """Also those that were revoked: a gateway doesn't open itself up with its last key."""
    return connection.execute(select(virtual_keys.c.id).limit(1)).first() is not None


def made_with_another(connection: Connection, pepper: str) -> list[str]:
    """The ids of the keys that weren't revoked and were hashed with another pepper than the one
    with this fingerprint."""
    table = virtual_keys.c
    query = select(table.id, table.settings).where(table.revoked.is_(None)).order_by(table.id)
    return [
        key_id
        for key_id, raw in connection.execute(query)
        if (found := _decoded(_Peppered, raw, key_id)) is not None
        and found.pepper not in ("", pepper)
    ]


class _Peppered(msgspec.Struct, frozen=True):
    """What of a key's settings is told with every key anew, and so read alone."""

    pepper: str = ""


def _keys(connection: Connection, now: float, ids: Sequence[str] | None) -> Iterator[LiveKey]:
    table = virtual_keys.c
    query = select(
        table.id, table.hash, table.name, table.team_id, table.expires, table.settings
    ).where(table.revoked.is_(None), or_(table.expires.is_(None), table.expires > now))
    for part in _parts(ids):
        limited = query if part is None else query.where(table.id.in_(part))
        for key_id, sealed, name, team_id, expires, raw in connection.execute(limited):
            settings = _decoded(KeySettings, raw, key_id)
            if settings is not None:
                yield LiveKey(key_id, sealed, name, team_id, expires, settings)


def _teams(connection: Connection, ids: Sequence[str] | None) -> Iterator[Team]:
    table = teams.c
    query = select(table.id, table.name, table.created, table.settings)
    query = query.where(table.deleted.is_(None))
    for part in _parts(ids):
        limited = query if part is None else query.where(table.id.in_(part))
        for team_id, name, created, raw in connection.execute(limited):
            settings = _decoded(TeamSettings, raw, team_id)
            if settings is not None:
                yield Team(team_id, name, created, settings)


def _parts(ids: Sequence[str] | None) -> Iterable[Sequence[str] | None]:
    if ids is None:
        return (None,)
    return (ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE))


def _decoded(kind: type[T], settings: Any, name: str) -> T | None:
    """None, and so refused, where a newer program wrote what this one can't obey."""
    try:
        return msgspec.json.decode(settings, type=kind)
    except msgspec.DecodeError as error:
        logger.error("the settings of %s can't be read, it is refused: %s", name, error)
        return None
