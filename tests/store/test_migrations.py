"""From every schema that was ever released to today's."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from gateway.store import migrations
from gateway.store.database import Database

SCHEMAS = Path(__file__).parent / "schemas"


def schema_of(path: Path) -> list[str]:
    """The statements that make the database's tables and indexes, without their layout."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        return sorted(re.sub(r"\s+", " ", sql).strip() for (sql,) in rows)


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute("SELECT version FROM schema_version").fetchone()[0]
        return found


async def opened(path: Path) -> Path:
    await Database(f"sqlite:///{path}").close()
    return path


async def test_an_empty_database_gets_todays_schema(tmp_path: Path) -> None:
    path = await opened(tmp_path / "state.db")
    assert version_of(path) == migrations.VERSION
    recorded = (SCHEMAS / f"v{migrations.VERSION}.sql").read_text().split(";\n")
    assert schema_of(path) == sorted(line for line in recorded if line), (
        "schema.py has changed: add a step to migrations.py, and the new schema to tests/store/"
        "schemas"
    )


@pytest.mark.parametrize("version", range(1, migrations.VERSION + 1))
async def test_every_older_schema_becomes_todays(version: int, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((SCHEMAS / f"v{version}.sql").read_text())
        connection.execute("INSERT INTO schema_version VALUES (?)", (version,))
        connection.commit()
    await opened(path)
    assert schema_of(path) == schema_of(await opened(tmp_path / "new.db"))
    assert version_of(path) == migrations.VERSION


async def test_a_step_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await opened(tmp_path / "state.db")
    before = schema_of(path)

    def add(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE more (n INTEGER)")

    def fail(_: Connection) -> None:
        raise RuntimeError("no")

    now = migrations.VERSION
    monkeypatch.setattr(migrations, "VERSION", now + 2)
    monkeypatch.setattr(migrations, "STEPS", {now + 1: add, now + 2: fail})
    with pytest.raises(RuntimeError):
        Database(f"sqlite:///{path}")
    assert (schema_of(path), version_of(path)) == (before, now)
    monkeypatch.setattr(migrations, "STEPS", {now + 1: add, now + 2: lambda _: None})
    await opened(path)
    assert version_of(path) == now + 2
    assert len(schema_of(path)) == len(before) + 1
