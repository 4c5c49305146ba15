"""Each request becomes one row, whatever the database, the disk and the caller do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError, LedgerConfig
from gateway.errors import UnavailableError
from gateway.ledger import Ledger
from gateway.ledger.journal import JOURNAL, SUFFIX, unlock
from gateway.ledger.ledger import journal_home
from gateway.store.database import Database
from gateway.store.upkeep import DAY_S
from tests.ledger.conftest import OpenLedger, entry, written
from tests.ledger.test_journal import full_disk
from tests.store.conftest import SHARED, Clock

ON_DISK = pytest.mark.parametrize("url", SHARED, indirect=True)
ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


async def allow_pages(database: Database, number: int) -> int:
    """Let the database have so many pages and no more; returns how many it has."""

    def limit(connection: Any) -> int:
        pages = int(connection.exec_driver_sql("PRAGMA page_count").scalar())
        connection.exec_driver_sql(f"PRAGMA max_page_count = {number or pages}")
        return pages

    return await database.write(limit)


async def test_a_request_is_one_row_with_all_that_is_known(
    open_ledger: OpenLedger, database: Database
) -> None:
    ledger = open_ledger()
    given = entry(key_id="key_1", team="team_1", streamed=True, cached_tokens=3, queue_s=0.1)
    ledger.begin(given)
    ledger.record(given)
    assert given.recorded
    await ledger.flush()
    (row,) = (await written(database)).values()
    for name, value in row.items():
        if name != "seq":
            assert getattr(given, name) == value
    assert ledger.waiting == 0


async def test_recording_again_changes_nothing(open_ledger: OpenLedger, database: Database) -> None:
    ledger = open_ledger()
    given = entry(status=200)
    ledger.record(given)
    given.status = 500
    ledger.record(given)
    ledger.begin(given)
    await ledger.flush()
    assert (await written(database))[given.request_id]["status"] == 200


async def test_the_first_row_of_a_request_stays(
    open_ledger: OpenLedger, database: Database
) -> None:
    ledger = open_ledger()
    first, second = entry(cost=1), entry(cost=2)
    second.request_id = first.request_id
    ledger.record(first)
    await ledger.flush()
    ledger.record(second)
    ledger.record(other := entry())
    await ledger.flush()
    rows = await written(database)
    assert rows[first.request_id]["cost"] == 1
    assert rows.keys() == {first.request_id, other.request_id}


async def test_a_name_no_database_takes_is_made_fit(
    open_ledger: OpenLedger, database: Database
) -> None:
    ledger = open_ledger()
    names = ["nul\0", "half \ud800 pair", "long" * 10_000, "☃"]
    given = [entry(model=name) for name in names]
    for one in given:
        ledger.record(one)
    await ledger.flush()
    rows = await written(database)
    models = [rows[one.request_id]["model"] for one in given]
    assert models == ["nul\ufffd", "half ? pair", ("long" * 10_000)[:256], "☃"]


async def test_a_row_the_database_refuses_does_not_hold_up_the_others(
    open_ledger: OpenLedger, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = open_ledger()
    given = [entry(), entry(cost=1 << 70), entry()]
    for one in given:
        ledger.record(one)
    await ledger.flush()
    assert (await written(database)).keys() == {given[0].request_id, given[2].request_id}
    assert given[1].request_id in caplog.text
    assert ledger.waiting == 0


async def test_rows_come_to_the_database_by_themselves(
    open_ledger: OpenLedger, database: Database
) -> None:
    ledger = open_ledger(linger_s=0.01)
    await ledger.start()
    given = [entry() for _ in range(1500)]
    for one in given:
        ledger.record(one)
    await ledger.close()
    assert (await written(database)).keys() == {one.request_id for one in given}


@ON_DISK
async def test_what_a_dead_program_recorded_or_had_begun_is_brought_in(
    open_ledger: OpenLedger, database: Database, tmp_path: Path
) -> None:
    dead = open_ledger()
    recorded, running = [entry() for _ in range(3)], entry(completion_tokens=0, cost=0)
    for one in [*recorded, running]:
        dead.begin(one)
    for one in recorded:
        dead.record(one)
    die(dead)
    successor = open_ledger()
    await successor.upkeep()
    rows = await written(database)
    assert [rows[one.request_id]["outcome"] for one in recorded] == ["completed"] * 3
    lost = rows.pop(running.request_id)
    assert (lost["outcome"], lost["prompt_tokens"], lost["completion_tokens"]) == ("lost", 7, 0)
    assert len(rows) == 3
    await successor.upkeep()
    assert len(list((tmp_path / "journal").glob("*.journal"))) == 1  # its own


@ON_DISK
async def test_a_journal_that_cannot_be_read_stays_and_holds_up_nothing(
    open_ledger: OpenLedger,
    database: Database,
    clock: Clock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    home = tmp_path / "journal"
    newer = open_ledger()
    (unread,) = home.glob(f"*{JOURNAL}")
    newer.record(entry())
    die(newer)
    for segment in unread.glob(f"*{SUFFIX}"):
        with segment.open("r+b") as file:
            file.write(b"gwledg99")
    dead = open_ledger()
    (home / "0.journal").touch()  # a file, and the first by name
    kept, old = entry(), entry(at=clock.now - 3 * DAY_S)
    for one in (kept, old):
        dead.record(one)
    die(dead)
    successor = open_ledger(config={"retention_days": 2})
    await successor.upkeep()
    assert (await written(database)).keys() == {kept.request_id}
    assert unread.is_dir()
    assert str(unread) in caplog.text
    assert str(home / "0.journal") in caplog.text


@ON_DISK
async def test_a_living_programs_journal_is_left_alone(
    open_ledger: OpenLedger, database: Database
) -> None:
    living, other = open_ledger(), open_ledger()
    running = entry()
    living.begin(running)
    await other.upkeep()
    assert await written(database) == {}
    living.record(running)
    await living.flush()
    assert (await written(database))[running.request_id]["outcome"] == "completed"


@ON_DISK
async def test_what_the_database_takes_no_more_waits_for_the_next_start(
    open_ledger: OpenLedger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, given = open_ledger(), [entry() for _ in range(5)]
    for one in given:
        ledger.record(one)
    with monkeypatch.context() as patch:
        patch.setattr(database, "write", refuse)
        await ledger.close()
    assert await written(database) == {}
    await open_ledger().upkeep()
    assert (await written(database)).keys() == {one.request_id for one in given}


@ON_SQLITE
async def test_a_full_database_refuses_new_requests_and_heals(
    open_ledger: OpenLedger, database: Database
) -> None:
    ledger = open_ledger(max_waiting=2000)
    await ledger.flush()
    await allow_pages(database, 0)
    given = []
    while (refused := refusal(ledger)) is None:
        ledger.record(one := entry())
        given.append(one.request_id)
    assert (refused.status, refused.code) == (503, "storage_unavailable")
    assert "retry-after" in refused.headers
    with pytest.raises(UnavailableError):
        await ledger.flush()
    assert ledger.waiting > 0
    await allow_pages(database, 1_000_000)
    await ledger.flush()
    ledger.require_room()
    assert (await written(database)).keys() == set(given)


@ON_DISK
async def test_a_full_disk_refuses_new_requests_and_heals(
    open_ledger: OpenLedger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, given = open_ledger(segment_bytes=16_384), []
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    while refusal(ledger) is None:
        given.append(entry())
        ledger.begin(given[-1])
    assert given
    for one in given:
        ledger.record(one)
    die(ledger)
    monkeypatch.undo()
    successor = open_ledger()
    await successor.upkeep()
    successor.require_room()
    rows = await written(database)
    assert [rows[one.request_id]["outcome"] for one in given] == ["completed"] * len(given)


async def test_refused_requests_are_counted_where_they_are_too_many_to_keep(
    open_ledger: OpenLedger, database: Database
) -> None:
    ledger = open_ledger(max_waiting=10)
    for _ in range(15):
        ledger.record(entry(outcome="rejected", status=503))
        ledger.record(entry(outcome="cancelled", status=499))  # while it still sent its body
    ran = entry()
    ledger.begin(ran)
    ledger.record(ran)
    await ledger.flush()
    assert ledger.dropped == 10
    assert len(await written(database)) == 21


async def test_old_rows_go(
    open_ledger: OpenLedger, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.upkeep.PURGED_AT_ONCE", 4)
    ledger = open_ledger(config={"retention_days": 2})
    for age in [3, 3, 3, 3, 3, 2.5, 1, 0]:
        ledger.record(entry(at=clock.now - age * DAY_S))
    await ledger.flush()
    await ledger.upkeep()
    assert len(await written(database)) == 2


async def test_state_in_memory_has_no_journal(tmp_path: Path) -> None:
    database = Database("sqlite://")
    assert journal_home(LedgerConfig(journal=str(tmp_path)), database) is None
    ledger = Ledger(LedgerConfig(journal=str(tmp_path)), database)
    ledger.begin(given := entry())
    ledger.require_room()
    ledger.record(given)
    await ledger.flush()
    assert list(await written(database)) == [given.request_id]
    await ledger.close()
    await database.close()
    assert os.listdir(tmp_path) == []


@ON_SQLITE
async def test_the_journal_is_beside_a_database_file_and_private(
    database: Database, tmp_path: Path
) -> None:
    ledger = Ledger(LedgerConfig(), database)
    home = tmp_path / "state" / "state.db.ledger"
    (place,) = home.glob("*.journal")
    for path in (home, place, *place.iterdir()):
        assert path.stat().st_mode & 0o077 == 0
    await ledger.close()


@ON_SQLITE
async def test_a_journal_that_cannot_be_made_is_named_with_its_key(database: Database) -> None:
    with pytest.raises(ConfigError, match=r"ledger\.journal: can't use /dev/null/here"):
        Ledger(LedgerConfig(journal="/dev/null/here"), database)


@ON_DISK
async def test_a_journal_of_a_program_that_knew_more_is_read(
    open_ledger: OpenLedger, database: Database
) -> None:
    dead, known = open_ledger(), entry()
    assert dead._journal
    line = b'{"request_id":"%s","caller":"ann","endpoint":"/v1/new","at":1.8e9,"novel":[1]}'
    dead._journal.end(known.request_id, line % known.request_id.encode())
    die(dead)
    await open_ledger().upkeep()
    assert (await written(database))[known.request_id]["endpoint"] == "/v1/new"


def refusal(ledger: Ledger) -> UnavailableError | None:
    try:
        ledger.require_room()
    except UnavailableError as error:
        return error
    return None


async def refuse(_change: Any) -> None:
    raise UnavailableError("down", code="storage_unavailable", retry_after_s=1)


def die(ledger: Ledger) -> None:
    """As a kill leaves it: nothing more is written, and the lock is free."""
    journal = ledger._journal
    assert journal
    unlock(journal._lock)
    ledger._journal = None
    ledger._rows.clear()
    ledger._places.clear()
