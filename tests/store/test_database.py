"""Opening, refusing to open, and what happens when the disk, the program or a change fails."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from gateway.config import ConfigError, StateConfig
from gateway.errors import InvalidRequestError, UnavailableError
from gateway.store import writer
from gateway.store.database import Database, Lane
from gateway.store.paging import Slice
from gateway.store.state import Store
from tests.store.conftest import USER, completion

ROOT = Path(__file__).parents[2]

SAVE_FOR_EVER = """
import asyncio, resource, sys
from gateway.config import StateConfig
from gateway.store.state import Store
from tests.store.conftest import USER, completion

async def main(url, max_file_bytes):
    store = Store(StateConfig(url=url))
    if max_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, -1))

    async def save(worker):
        for number in range(worker, 1_000_000, 8):
            given = completion(number, padding="x" * 1000)
            kept = await store.completions.save("ann", given, USER, {"k": "v"})
            print(given["id"] if kept else "not kept", flush=True)

    await asyncio.gather(*map(save, range(8)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def start_saving(path: Path, max_file_bytes: int = 0) -> subprocess.Popen[str]:
    """A program that saves completions and tells each id once it is saved."""
    return subprocess.Popen(
        [sys.executable, "-c", SAVE_FOR_EVER, url_of(path), str(max_file_bytes)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def everything(store: Store) -> set[str]:
    seen: set[str] = set()
    page = await store.completions.list("ann", Slice(limit=100))
    while page.ids:
        seen.update(page.ids)
        page = await store.completions.list("ann", Slice(limit=100, after=page.ids[-1]))
    return seen


def count(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT count(*) FROM counted")) or 0)


def insert(connection: Connection) -> None:
    connection.execute(text("INSERT INTO counted VALUES (1)"))


async def with_table(database: Database) -> Database:
    await database.write(lambda c: c.execute(text("CREATE TABLE counted (n INTEGER)")) and None)
    return database


async def test_by_default_it_is_a_private_file_below_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    database = Database(None)
    path = tmp_path / "gateway" / "state.db"
    assert database.location == str(path)
    await with_table(database)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await database.close()
    assert [file.name for file in path.parent.iterdir()] == ["state.db"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:////dev/null/state.db", "Not a directory"),
        ("sqlite:////dev", "Is a directory"),
        ("mysql://somewhere/db", "expected sqlite:///FILE"),
        ("nonsense", "expected sqlite:///FILE"),
        ("postgresql://user:p@ss:hidden@host/db", "percent-encoded, e.g. %40 for @"),
        ("postgresql://user:p@hidden@host/db", "percent-encoded, e.g. %40 for @"),
        ("postgresql://user:hidden@host:/db", "percent-encoded, e.g. %40 for @"),
        ("sqlite:///~nosuchuser/x.db", "'~' leads nowhere here"),
        ("sqlite:////dev/null?timeout=hidden", "an option behind '?'"),
    ],
)
def test_what_cannot_be_opened_is_named_with_its_key(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=r"state\.url") as refused:
        Database(url)
    assert reason in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_database_that_cannot_be_reached_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "postgresql://user:hidden@127.0.0.1:1/db"
    with pytest.raises(ConfigError) as refused:
        Database(url)
    assert "hidden" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'psycopg\[binary\]'"):
        Database(url)


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with pytest.raises(ConfigError, match="tables of another program"):
        Database(url_of(path))
    path.write_text("no database at all, but long enough to be taken for one" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        Database(url_of(path))


async def test_a_read_only_database_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await Database(url_of(path)).close()
    with pytest.raises(ConfigError, match=r"readonly database.*that can be written"):
        Database(f"sqlite:///file:{path}?mode=ro&uri=true")


async def test_many_programs_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    async def opened(path: Path) -> None:
        await (await asyncio.to_thread(Database, url_of(path))).close()

    for number in range(5):  # SQLite refuses one of them without a wait, though rarely
        await asyncio.gather(*(opened(tmp_path / f"state{number}.db") for _ in range(8)))


async def test_a_change_that_fails_leaves_nothing_and_harms_no_other(tmp_path: Path) -> None:
    database = await with_table(Database(url_of(tmp_path / "state.db")))
    held, inside = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        inside.set()
        held.wait(10)

    def fail(connection: Connection) -> None:
        insert(connection)
        raise InvalidRequestError("no")

    first = asyncio.create_task(database.write(hold))
    await asyncio.to_thread(inside.wait, 10)
    # These wait together, and so are first tried in one transaction.
    changes = [insert, fail, insert, fail, insert]
    together = [asyncio.create_task(database.write(change)) for change in changes]
    await asyncio.sleep(0)
    held.set()
    await first
    results = await asyncio.gather(*together, return_exceptions=True)
    assert [isinstance(result, InvalidRequestError) for result in results] == [
        *[False, True, False, True, False]
    ]
    assert await database.read(count) == 3
    await database.close()


async def test_reading_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = await with_table(Database(url_of(tmp_path / "state.db")))
    held, inside = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        insert(connection)
        inside.set()
        held.wait(10)

    writing = asyncio.create_task(database.write(hold))
    await asyncio.to_thread(inside.wait, 10)
    assert await database.read(count) == 0
    held.set()
    await writing
    assert await database.read(count) == 1
    await database.close()


@pytest.mark.parametrize(
    ("slow", "others"),
    [("reports", ["requests", "keys"]), ("requests", ["keys"])],
)
async def test_however_much_is_read_the_more_urgent_doesnt_wait(
    slow: Lane, others: list[Lane], tmp_path: Path
) -> None:
    database = await with_table(Database(url_of(tmp_path / "state.db")))
    held = threading.Event()

    def hold(_: Connection) -> None:
        held.wait(10)

    reading = [asyncio.create_task(database.read(hold, lane=slow)) for _ in range(20)]
    async with asyncio.timeout(5):
        for lane in others:
            assert await database.read(count, lane=lane) == 0
    assert not any(task.done() for task in reading)
    held.set()
    await asyncio.gather(*reading)
    await database.close()


async def test_a_write_whose_caller_has_gone_is_still_done(tmp_path: Path) -> None:
    database = await with_table(Database(url_of(tmp_path / "state.db")))
    gone = asyncio.create_task(database.write(insert))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await database.close()
    again = Database(url_of(tmp_path / "state.db"))
    assert await again.read(count) == 1
    await again.close()


async def test_too_much_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING", 3)
    database = await with_table(Database(url_of(tmp_path / "state.db")))
    held, inside = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        inside.set()
        held.wait(10)

    first = asyncio.create_task(database.write(hold))
    await asyncio.to_thread(inside.wait, 10)
    waiting = [asyncio.create_task(database.write(insert)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError) as refused:
        await database.write(insert)
    assert refused.value.code == "storage_overloaded"
    held.set()
    await asyncio.gather(first, *waiting)
    await database.close()


async def test_after_it_is_closed_it_takes_nothing(tmp_path: Path) -> None:
    database = Database(url_of(tmp_path / "state.db"))
    await database.close()
    with pytest.raises(UnavailableError):
        await database.write(lambda _: None)
    with pytest.raises(UnavailableError):
        await database.read(lambda _: None)


async def test_what_was_saved_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with start_saving(path) as child:
        assert child.stdout is not None
        told = [child.stdout.readline().strip() for _ in range(200)]
        child.send_signal(signal.SIGKILL)
        told += [line.strip() for line in child.stdout if line.endswith("\n")]
    assert child.returncode == -signal.SIGKILL
    store = Store(StateConfig(url=url_of(path)))
    found = await everything(store)
    assert len(told) >= 200
    assert set(told) <= found
    check = text("PRAGMA integrity_check")
    assert await store.database.read(lambda connection: connection.scalar(check)) == "ok"
    await store.close()


async def test_a_full_disk_is_logged_and_harms_nothing_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with start_saving(path, max_file_bytes=400_000) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        told = []
        while (line := child.stdout.readline().strip()) != "not kept":
            assert line
            told.append(line)
        assert "state database" in child.stderr.readline()
        child.kill()
    store = Store(StateConfig(url=url_of(path)))
    assert set(told) <= await everything(store)
    assert await store.completions.save("ann", completion("after"), USER)
    await store.close()


async def test_a_locked_database_is_a_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.database.BUSY_TIMEOUT_S", 0.01)
    path = tmp_path / "state.db"
    database = await with_table(Database(url_of(path)))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError) as refused:
        await database.write(insert)
    assert refused.value.code == "storage_unavailable"
    assert refused.value.status == 503
    assert "retry-after" in refused.value.headers
    other.execute("ROLLBACK")
    other.close()
    await database.write(insert)
    await database.close()


async def test_what_clients_wrote_is_not_told_by_errors_of_the_database(store: Store) -> None:
    given = completion(1)
    assert await store.completions.save("ann", given, USER, {"secret": "s3cret"})
    with pytest.raises(IntegrityError) as failed:
        await store.completions.save("ann", given, USER, {"secret": "s3cret"})
    assert given["id"] not in str(failed.value)
