"""From the schema a database has to the one this program knows, forward only, in one transaction.

A new database is made from `schema.py` as it is now. An older one takes the steps it lacks; each
is a function of its own whose statements never change once released. `tests/store/schemas/` keeps
what every version looked like, and the tests compare: a change of `schema.py` without its step
fails there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, inspect, select, text, update

from gateway.store import schema

Step = Callable[[Connection], None]

# By the version that a step leads to; the first version needs none.
STEPS: Mapping[int, Step] = {}
VERSION = 1

# Any number will do, as long as every gateway takes the same.
_POSTGRES_LOCK = 4_216_871_309


class NewerSchemaError(Exception):
    """The database was written by a newer program."""


class ForeignDatabaseError(Exception):
    """There are tables, but not ours."""


def migrate(connection: Connection) -> None:
    """Bring the database up to `VERSION`. The transaction must keep other writers out, which
    SQLite's does when it begins as IMMEDIATE. Raises NewerSchemaError, ForeignDatabaseError."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
    found = _version(connection)
    if found > VERSION:
        raise NewerSchemaError(f"its schema is version {found}, this program knows {VERSION}")
    if found == 0:
        schema.metadata.create_all(connection, checkfirst=False)
        connection.execute(schema.schema_version.insert().values(version=VERSION))
        return
    for version in range(found + 1, VERSION + 1):
        STEPS[version](connection)
    # Also where nothing changes: what can't be written is found out now, not by a request.
    connection.execute(update(schema.schema_version).values(version=VERSION))


def _version(connection: Connection) -> int:
    """0 where nothing is there yet."""
    tables = inspect(connection).get_table_names()
    if schema.schema_version.name in tables:
        version: int = connection.execute(select(schema.schema_version.c.version)).scalar_one()
        return version
    if tables and connection.dialect.name == "sqlite":
        raise ForeignDatabaseError("it holds tables of another program")
    return 0
