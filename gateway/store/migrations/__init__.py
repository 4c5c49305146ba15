"""From the schema a database has to the one this program knows, forward only, in one transaction.

Alembic runs what is in `versions/`: statements that never change once released, for a new database
all of them. It is imported only where there is something to run: at most starts there isn't.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table, text, update

from gateway.store.schema import schema_version

logger = logging.getLogger(__name__)

HEAD = "0002"
SCRIPTS = Path(__file__).parent
# A name of our own: on PostgreSQL another program may keep its `alembic_version` beside our tables.
REVISION_TABLE = "schema_revision"

# What schema version 1 became. It was made before there were revisions, and is told by its table.
_ADOPTED = "0001"
_revisions = table(REVISION_TABLE, column("version_num"))

# Any number will do, as long as every gateway takes the same.
_POSTGRES_LOCK = 4_216_871_309
# Alembic keeps what it runs in its modules, so one thread at a time.
_alembic = threading.Lock()


class NewerSchemaError(Exception):
    """The database was written by a newer program."""


class ForeignDatabaseError(Exception):
    """There are tables, but not ours."""


def migrate(connection: Connection) -> None:
    """Bring the database up to `HEAD`. The transaction must keep other writers out, which
    SQLite's does when it begins as IMMEDIATE. Raises NewerSchemaError, ForeignDatabaseError."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
    tables = inspect(connection).get_table_names()
    if REVISION_TABLE in tables:
        _from_revision(connection)
    elif schema_version.name in tables:
        _from_version(connection)
    elif tables and connection.dialect.name == "sqlite":
        raise ForeignDatabaseError("it holds tables of another program")
    else:
        _upgrade(connection)


def _from_revision(connection: Connection) -> None:
    found: str = connection.execute(select(_revisions.c.version_num)).scalar_one()
    if found > HEAD:
        raise NewerSchemaError(f"its schema is revision {found}, this program knows {HEAD}")
    if found < HEAD:
        _upgrade(connection)
        logger.info("schema changed", extra={"before": found, "now": HEAD})
        return
    # Though nothing changes: what can't be written is found out now, not by a request.
    connection.execute(update(_revisions).values(version_num=HEAD))


def _from_version(connection: Connection) -> None:
    found: int = connection.execute(select(schema_version.c.version)).scalar_one()
    if found != 1:
        raise NewerSchemaError(f"its schema is version {found}, this program knows 1")
    _upgrade(connection, adopt=_ADOPTED)
    logger.info("schema changed", extra={"before": _ADOPTED, "now": HEAD})


def _upgrade(connection: Connection, adopt: str | None = None) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _alembic:
        if adopt:
            command.stamp(config, adopt)
        command.upgrade(config, "head")
