"""The ledger's table: rows put in, in groups, and summed up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Double,
    Integer,
    Select,
    cast,
    delete,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)

from gateway.errors import NotFoundError
from gateway.protocol.usage import Dimension
from gateway.store.tenant_tables import ledger, teams, virtual_keys
from gateway.tenants import Unit, Window

DAY_S = 86_400
SUMMED = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost")
WINDOWS: tuple[Window, ...] = ("hour", "day", "week", "month", "total")

# Rows of one statement. SQLite's driver lets go of the interpreter for each statement and has to
# get it back, which under load takes up to milliseconds: few statements matter more than anything.
_SIZES = (256, 64, 16, 4, 1)


class Spent(msgspec.Struct, frozen=True):
    """What an account has used in the window that began at `since`: tokens (prompt and
    completion), or nano-units of currency."""

    account: str
    unit: Unit
    window: Window
    since: float
    amount: int


class Filter(msgspec.Struct, frozen=True):
    """Which rows: from `since` on and before `until`, in seconds since the epoch. A key and a team
    are named by id or name."""

    since: float
    until: float
    key: str | None = None
    team: str | None = None
    model: str | None = None
    caller: str | None = None
    endpoint: str | None = None
    outcome: str | None = None


def insert(connection: Connection, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Put `rows` of values of `columns` in. Requests that are there already stay as they are."""
    names = tuple(columns)
    if connection.dialect.name == "postgresql":
        given = msgspec.json.encode([dict(zip(names, row, strict=True)) for row in rows])
        connection.exec_driver_sql(_from_json(names, connection.dialect), (given.decode(),))
        return
    at = 0
    for size in _SIZES:
        while len(rows) - at >= size:
            values = tuple(chain.from_iterable(rows[at : at + size]))
            connection.exec_driver_sql(_of_values(names, size), values)
            at += size


def purge(before: float, connection: Connection, limit: int) -> int:
    """Delete at most `limit` rows from before `before`; returns how many."""
    some = select(ledger.c.seq).where(ledger.c.at < before).limit(limit)
    return connection.execute(delete(ledger).where(ledger.c.seq.in_(some))).rowcount


def window_start(window: Window, now: float) -> float:
    """When the window that `now` is in began: UTC's calendar, weeks from Monday."""
    if window == "total":
        return 0.0
    if window == "hour":
        return now // 3600 * 3600
    today = int(now // DAY_S)
    if window == "day":
        return float(today * DAY_S)
    if window == "week":
        return float((today - (today + 3) % 7) * DAY_S)  # the epoch was a Thursday
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    return dt.datetime(moment.year, moment.month, 1, tzinfo=dt.UTC).timestamp()


def spent(connection: Connection, windows: Sequence[Window], now: float) -> list[Spent]:
    """What every key and team has used in those of the windows that go on at `now`."""
    found: dict[tuple[str, Unit, Window, float], int] = {}
    tokens = func.sum(ledger.c.prompt_tokens + ledger.c.completion_tokens)
    # Of plain columns SQLite would walk all of their index, rather than the few rows of the time.
    who = [
        func.coalesce(column, literal_column("''")) for column in (ledger.c.key_id, ledger.c.team)
    ]
    for window in dict.fromkeys(windows):
        since = window_start(window, now)
        query = (
            select(*who, tokens, func.sum(ledger.c.cost)).where(ledger.c.at >= since).group_by(*who)
        )
        groups: Any = connection.execute(query)
        for key, team, used, cost in groups:
            for account in (key and f"key:{key}", team and f"team:{team}"):
                if account:
                    for unit, amount in (("tokens", used), ("currency", cost)):
                        place: Any = account, unit, window, since
                        found[place] = found.get(place, 0) + int(amount)
    return [Spent(*place, amount) for place, amount in found.items() if amount]


def sums(
    connection: Connection,
    by: Sequence[Dimension],
    only: Filter,
    limit: int | None = None,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """Requests, tokens and cost of the rows `only` lets through, for each combination of `by`
    there is, in the order of these: at most `limit`, None: all. Days are dates, UTC; what a row has
    none of is None. Raises NotFoundError where there is no such key or team."""
    _require_named(connection, only)
    parts = [_part(connection, name).label(name) for name in by]
    totals = [func.sum(ledger.c[name]).label(name) for name in SUMMED]
    query = _only(select(*parts, func.count().label("requests"), *totals), only)
    if parts:
        order = [column.asc().nulls_last() for column in parts]
        query = query.group_by(*parts).order_by(*order).limit(limit).offset(offset)
    found = []
    for given in connection.execute(query).mappings():
        group = dict(given)
        if "day" in group:
            group["day"] = dt.date.fromordinal(_EPOCH + group["day"]).isoformat()
        for name in SUMMED:
            group[name] = int(group[name] or 0)  # PostgreSQL's sums are decimals
        found.append(group)
    return found


def rows(connection: Connection, only: Filter, after: Any = None, limit: int = 1000) -> list[Any]:
    """Whole rows as mappings, by time, that follow the row `after`. Raises NotFoundError like
    `sums`."""
    _require_named(connection, only)
    query = _only(select(ledger), only).order_by(ledger.c.at, ledger.c.seq).limit(limit)
    if after is not None:
        here = tuple_(literal(after["at"]), literal(after["seq"]))
        query = query.where(tuple_(ledger.c.at, ledger.c.seq) > here)
    return list(connection.execute(query).mappings())


def all_rows(connection: Connection, only: Filter) -> Iterator[Any]:
    """All of them, without ever holding many."""
    page = rows(connection, only)
    while page:
        yield from page
        page = rows(connection, only, page[-1])


def names(connection: Connection, of: Literal["key", "team"]) -> dict[str, str]:
    """What each key or team is called, by its id; deleted ones too."""
    table = (virtual_keys if of == "key" else teams).c
    return {row[0]: row[1] for row in connection.execute(select(table.id, table.name))}


_EPOCH = dt.date(1970, 1, 1).toordinal()


def _require_named(connection: Connection, only: Filter) -> None:
    """A sum of nothing would say that it used nothing."""
    for kind, given, table in (("key", only.key, virtual_keys), ("team", only.team, teams)):
        if given is None:
            continue
        named = (table.c.id == given) | (table.c.name == given)
        if connection.execute(select(table.c.id).where(named).limit(1)).first() is None:
            raise NotFoundError(
                f"No {kind} found with the id or name '{given[:128]}'.",
                code=f"{kind}_not_found",
                param=kind,
            )


def _part(connection: Connection, name: Dimension) -> ColumnElement[Any]:
    if name == "day":
        # Not a parameter, which PostgreSQL would not know for the same in GROUP BY. A cast cuts
        # off on SQLite and rounds on PostgreSQL.
        days = ledger.c.at / literal_column(str(DAY_S), Double)
        if connection.dialect.name == "postgresql":
            return cast(func.floor(days), Integer)
        return cast(days, Integer)
    return ledger.c["key_id" if name == "key" else name]


def _only(query: Select[Any], only: Filter) -> Select[Any]:
    query = query.where(ledger.c.at >= only.since, ledger.c.at < only.until)
    for given, column, names in (
        (only.key, ledger.c.key_id, virtual_keys),
        (only.team, ledger.c.team, teams),
    ):
        if given is not None:
            called = select(names.c.id).where(names.c.name == given)
            query = query.where((column == given) | column.in_(called))
    for name in ("model", "caller", "endpoint", "outcome"):
        if (wanted := getattr(only, name)) is not None:
            query = query.where(ledger.c[name] == wanted)
    return query


@lru_cache(maxsize=16)
def _of_values(columns: tuple[str, ...], size: int) -> str:
    one = f"({', '.join('?' * len(columns))})"
    return _insert(columns, f"VALUES {', '.join([one] * size)}")


@lru_cache(maxsize=2)
def _from_json(columns: tuple[str, ...], dialect: Dialect) -> str:
    """One parameter, and no conversion of each value: a third of the work of any other way."""
    types = ", ".join(f"{name} {ledger.c[name].type.compile(dialect)}" for name in columns)
    source = f"SELECT * FROM json_to_recordset(%s::json) AS given({types})"  # noqa: S608
    return _insert(columns, source)


def _insert(columns: tuple[str, ...], source: str) -> str:
    names = ", ".join(ledger.c[name].name for name in columns)
    return f"INSERT INTO ledger ({names}) {source} ON CONFLICT (request_id) DO NOTHING"
