"""From every schema that was ever released to today's."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, make_url, text

from gateway.config import ConfigError
from gateway.store import migrations, tenant_tables
from gateway.store.database import Database
from gateway.store.schema import metadata
from tests.store.conftest import SHARED

SCHEMAS = Path(__file__).parent / "schemas"
RECORDED = sorted(path.stem for path in SCHEMAS.glob("*.sql"))
# Those that programs had before there were revisions.
FIRST_TABLES = [
    table for table in metadata.sorted_tables if table not in vars(tenant_tables).values()
]
OPEN = "import sys; from gateway.store.database import Database; Database(sys.argv[1]); "
POSTGRES_SHAPE = """
SELECT table_name || ' ' || ordinal_position || ' ' || column_name || ' ' || data_type || ' '
       || is_nullable || ' ' || coalesce(column_default, '')
  FROM information_schema.columns WHERE table_schema = current_schema()
UNION ALL
SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
UNION ALL
SELECT replace(indexdef, current_schema() || '.', '')
  FROM pg_indexes WHERE schemaname = current_schema()
"""
SQLITE_SHAPE = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"

shared = pytest.mark.parametrize("url", SHARED, indirect=True)


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """In a transaction that is committed."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    elif parsed.database:
        Path(parsed.database).parent.mkdir(exist_ok=True)
    engine = create_engine(parsed)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def shape(url: str) -> list[str]:
    """Its tables, constraints and indexes, without what Alembic keeps for itself."""
    with connected(url) as connection:
        query = SQLITE_SHAPE if connection.dialect.name == "sqlite" else POSTGRES_SHAPE
        found = connection.scalars(text(query)).all()
    parts = [re.sub(r"\s+", " ", part).strip() for part in found]
    return sorted(part for part in parts if migrations.REVISION_TABLE not in part)


def revision(url: str) -> str:
    with connected(url) as connection:
        query = text(f"SELECT version_num FROM {migrations.REVISION_TABLE}")
        return str(connection.execute(query).scalar_one())


def make_first_version(url: str) -> None:
    """What programs before there were revisions made."""
    with connected(url) as connection:
        metadata.create_all(connection, tables=FIRST_TABLES)
        connection.execute(text("INSERT INTO schema_version VALUES (1)"))
        connection.execute(text("INSERT INTO instances VALUES ('one', 2.5)"))


@contextmanager
def more_revisions(monkeypatch: pytest.MonkeyPatch, folder: Path, *bodies: str) -> Iterator[None]:
    """Within it the program knows some more revisions, whose upgrades do this."""
    shutil.copytree(migrations.SCRIPTS, folder)
    before = migrations.HEAD
    for number, body in enumerate(bodies, int(before) + 1):
        lines = [
            "from alembic import op",
            f"revision, down_revision = '{number:04}', '{number - 1:04}'",
            f"def upgrade(): {body}",
        ]
        (folder / "versions" / f"{number:04}_more.py").write_text("\n".join(lines))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "SCRIPTS", folder)
        patch.setattr(migrations, "HEAD", f"{int(before) + len(bodies):04}")
        yield


async def opened(url: str) -> str:
    await Database(url).close()
    return url


@shared
async def test_a_new_database_has_the_tables_that_the_program_knows(url: str) -> None:
    await opened(url)
    with connected(url) as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": migrations.REVISION_TABLE,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        differences = compare_metadata(context, metadata)
    assert differences == [], "a change of the tables needs a revision in migrations/versions"
    assert revision(url) == migrations.HEAD


@shared
async def test_the_revisions_make_what_the_tables_would_be_made_as(
    url: str, tmp_path: Path
) -> None:
    made = shape(await opened(url))
    with connected(url) as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert made == shape(url)


async def test_the_newest_recorded_schema_is_todays(tmp_path: Path) -> None:
    url = await opened(f"sqlite:///{tmp_path}/state.db")
    recorded = (SCHEMAS / f"{RECORDED[-1]}.sql").read_text()
    assert RECORDED[-1] == migrations.HEAD, "a revision needs its schema in tests/store/schemas"
    with closing(sqlite3.connect(tmp_path / "recorded.db")) as connection:
        connection.executescript(recorded)
    assert shape(url) == shape(f"sqlite:///{tmp_path}/recorded.db")


@pytest.mark.parametrize("number", RECORDED)
async def test_every_older_schema_becomes_todays(number: str, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((SCHEMAS / f"{number}.sql").read_text())
    old = await opened(f"sqlite:///{path}")
    assert shape(old) == shape(await opened(f"sqlite:///{tmp_path}/new.db"))
    assert revision(old) == migrations.HEAD


@shared
async def test_a_database_from_before_there_were_revisions_is_taken_over(
    url: str, tmp_path: Path
) -> None:
    make_first_version(url)
    await opened(url)
    assert revision(url) == migrations.HEAD
    with connected(url) as connection:
        assert connection.execute(text("SELECT * FROM instances")).all() == [("one", 2.5)]
        # Where the programs of that time look, they find what they don't know.
        assert connection.execute(text("SELECT version FROM schema_version")).all() == [(2,)]
    taken_over = shape(url)
    with connected(url) as connection:
        metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE {migrations.REVISION_TABLE}"))
    assert taken_over == shape(await opened(url))


@shared
async def test_a_revision_that_fails_leaves_the_database_as_it_was(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shape(await opened(url))
    add = "op.execute('CREATE TABLE more (n INTEGER)')"
    with (
        more_revisions(monkeypatch, tmp_path / "failing", add, "1 / 0"),
        pytest.raises(ZeroDivisionError),
    ):
        Database(url)
    assert (shape(url), revision(url)) == (before, migrations.HEAD)
    with more_revisions(monkeypatch, tmp_path / "per%cent", add, "pass"):
        await opened(url)
        assert revision(url) == migrations.HEAD
    assert len(shape(url)) == len(before) + 1


@shared
async def test_a_new_database_is_left_empty_by_a_revision_that_fails(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        more_revisions(monkeypatch, tmp_path / "failing", "1 / 0"),
        pytest.raises(ZeroDivisionError),
    ):
        Database(url)
    assert shape(url) == []
    await opened(url)


@shared
async def test_a_newer_schema_is_left_alone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with more_revisions(monkeypatch, tmp_path / "newer", "pass"):
        await opened(url)
    with pytest.raises(ConfigError, match=r"revision 0003, this program knows 0002; upgrade the"):
        Database(url)
    assert revision(url) == "0003"


@shared
def test_a_version_that_never_was_is_left_alone(url: str) -> None:
    make_first_version(url)
    with connected(url) as connection:
        connection.execute(text("UPDATE schema_version SET version = 1000"))
    with pytest.raises(ConfigError, match=r"version 1000.*upgrade the program"):
        Database(url)


@shared
def test_several_gateways_may_start_on_one_new_database_at_once(url: str) -> None:
    command = [sys.executable, "-c", OPEN, url]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [program.communicate(timeout=120)[1] for program in running] == [""] * 4
    assert [program.returncode for program in running] == [0] * 4
    assert revision(url) == migrations.HEAD


def test_alembic_is_loaded_only_where_there_is_something_to_change(tmp_path: Path) -> None:
    told = [
        subprocess.run(
            [*(sys.executable, "-c"), f"{OPEN} print('alembic' in sys.modules)", url],
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        for url in [f"sqlite:///{tmp_path}/state.db"] * 2
    ]
    assert told == ["True\n", "False\n"]


def test_the_revisions_are_one_line_that_ends_in_the_one_the_program_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.SCRIPTS))
    scripts = ScriptDirectory.from_config(config)
    numbers = [script.revision for script in scripts.walk_revisions()]
    assert scripts.get_heads() == [migrations.HEAD]
    # They are compared as texts.
    assert numbers == [f"{number:04}" for number in range(len(numbers), 0, -1)]
