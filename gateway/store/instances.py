"""Which gateways use the database now. Several may: what one that died has left behind is told from
what another is still at by this."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, ScalarSelect, delete, select, update

from gateway.store.schema import instances

HEARTBEAT_S = 15.0
# Who has not been seen for so long is dead. Several heartbeats, and more than clocks differ by.
LEASE_S = 60.0


def new_instance_id() -> str:
    return secrets.token_hex(8)


def beat(connection: Connection, instance: str, now: float) -> None:
    """`instance` lives at `now`, seconds since the epoch; forget who doesn't."""
    seen = update(instances).where(instances.c.id == instance).values(seen_at=now)
    if not connection.execute(seen).rowcount:
        connection.execute(instances.insert().values(id=instance, seen_at=now))
    connection.execute(delete(instances).where(instances.c.seen_at < now - LEASE_S))


def leave(connection: Connection, instance: str) -> None:
    """`instance` ends, on purpose."""
    connection.execute(delete(instances).where(instances.c.id == instance))


def living(now: float) -> ScalarSelect[str]:
    """The ids of those that live, as a subquery."""
    return select(instances.c.id).where(instances.c.seen_at >= now - LEASE_S).scalar_subquery()
