"""Shared limits in the state database. Its clock is the server's; SQLite's is the machine's, which
all gateways of a file are on."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Double, Table, cast, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from gateway.config import LimitsConfig
from gateway.limits.shared import REMEMBERED_S, Ask, Counter, Decision, Grant, Lease, decide
from gateway.store.database import Database
from gateway.store.tenant_tables import shared_leases, shared_limits

# Whose lease row this is tells what the last call of the gateway was.
_CALL = ("", "call")
PURGE_S = 600.0
# Longer than the longest window, so that what is purged is of one that is over.
_OVER_S = 40 * 86_400.0

Place = tuple[str, str]


class TableLimits:
    """`clock` is for SQLite."""

    def __init__(
        self, config: LimitsConfig, database: Database, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._lease_s = config.lease_s
        self._clock = clock
        self._instance = secrets.token_hex(8)
        self._purged = 0.0

    async def open(self) -> float:
        return await self._database.write(self._now)

    async def lease(self, call: int, asks: Sequence[Ask]) -> list[Grant]:
        # All gateways lock rows in the same order.
        order = sorted(range(len(asks)), key=lambda index: (asks[index].account, asks[index].kind))
        ordered = [asks[index] for index in order]
        grants = await self._database.write(partial(self._carry_out, call=call, asks=ordered))
        found = dict(zip(order, grants, strict=True))
        return [found[index] for index in range(len(asks))]

    async def close(self) -> None:
        """The database is somebody else's."""

    def _carry_out(self, connection: Connection, call: int, asks: Sequence[Ask]) -> list[Grant]:
        places = [(ask.account, ask.kind) for ask in asks]
        counters = _lock(connection, places)
        now = self._now(connection)
        leases = _leases(connection, [*places, _CALL])
        last = leases.get(_CALL, {}).get(self._instance)
        repeated = last is not None and call <= last.amount
        decisions = {}
        for ask in asks:
            place = ask.account, ask.kind
            decisions[place] = decide(
                counters[place], leases.get(place, {}), self._instance, ask, now, repeated
            )
        self._write(connection, call, decisions, now)
        if now - self._purged > PURGE_S:
            self._purged = now
            _purge(connection, now)
        return [decision.grant for decision in decisions.values()]

    def _write(
        self, connection: Connection, call: int, decisions: dict[Place, Decision], now: float
    ) -> None:
        gone, held, used = [], [], []
        for (account, kind), decision in decisions.items():
            here = {"account": account, "kind": kind}
            gone += [(account, kind, name) for name in decision.over]
            mine = {**here, "instance": self._instance}
            if decision.amount:
                until = now + self._lease_s
                held.append({**mine, "amount": decision.amount, "until": until})
            else:
                gone.append((account, kind, self._instance))
            counter = decision.counter
            used.append({**here, "since": counter.since, "used": counter.used})
        last = {"account": _CALL[0], "kind": _CALL[1], "instance": self._instance}
        held.append({**last, "amount": call, "until": now + REMEMBERED_S})
        if gone:
            connection.execute(delete(shared_leases).where(_key(shared_leases).in_(gone)))
        _put(connection, shared_leases, held)
        _put(connection, shared_limits, used)

    def _now(self, connection: Connection) -> float:
        if connection.dialect.name == "sqlite":
            return self._clock()
        clock = cast(func.extract("epoch", func.clock_timestamp()), Double)
        return float(connection.execute(select(clock)).scalar_one())


def _key(table: Table) -> Any:
    return tuple_(*table.primary_key.columns)


def _lock(connection: Connection, places: Sequence[Place]) -> dict[Place, Counter | None]:
    """The counters, which nobody else can change until this transaction ends."""
    query = select(shared_limits).where(_key(shared_limits).in_(places))
    if connection.dialect.name == "postgresql":
        # What isn't there can't be locked.
        new = [{"account": name, "kind": kind, "since": -1.0, "used": 0.0} for name, kind in places]
        connection.execute(postgresql.insert(shared_limits).on_conflict_do_nothing(), new)
        query = query.order_by(*shared_limits.primary_key.columns).with_for_update()
    found: dict[Place, Counter | None] = dict.fromkeys(places)
    for row in connection.execute(query):
        if row.since >= 0:
            found[row.account, row.kind] = Counter(row.since, row.used)
    return found


def _leases(connection: Connection, places: Sequence[Place]) -> dict[Place, dict[str, Lease]]:
    found: dict[Place, dict[str, Lease]] = {}
    place = tuple_(shared_leases.c.account, shared_leases.c.kind)
    for row in connection.execute(select(shared_leases).where(place.in_(places))):
        known = found.setdefault((row.account, row.kind), {})
        known[row.instance] = Lease(int(row.amount), row.until)
    return found


def _put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    keys = list(table.primary_key.columns)
    values = {
        column.name: statement.excluded[column.name]
        for column in table.columns
        if not column.primary_key
    }
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=values), rows)


def _purge(connection: Connection, now: float) -> None:
    """What says nothing any more. A bucket untouched for two minutes is full."""
    leases, limits = shared_leases.c, shared_limits.c
    calls = leases.kind == _CALL[1]
    connection.execute(delete(shared_leases).where(calls, leases.until < now))
    held = select(leases.account).where(
        leases.account == limits.account, leases.kind == limits.kind
    )
    rates = limits.kind.in_(("rpm", "tpm", "concurrent")) & (limits.since < now - 2 * PURGE_S)
    ended = ~limits.kind.like("%:total") & (limits.since < now - _OVER_S)
    connection.execute(delete(shared_limits).where((rates | ended) & ~held.exists()))
