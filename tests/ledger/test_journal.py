"""Segments are filled again once nothing in them matters, and not before."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.journal import MAX_PINNED, Journal, locked, try_lock, unlock
from gateway.ledger.segment import BEGIN, Segment, frames

SIZE = 16_384
LINE = b"x" * 500


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    opened = Journal(tmp_path, SIZE)
    yield opened
    opened.close()


def segments(home: Path) -> list[Path]:
    return sorted(home.glob("*.journal/*.segment"))


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def scarce(journal: Journal) -> bool:
    return journal.scarce


def end(journal: Journal, name: str) -> Segment:
    place = journal.end(name, LINE)
    assert place is not None
    return place


def test_what_the_database_has_makes_room_for_more_without_taking_more(
    journal: Journal, tmp_path: Path
) -> None:
    before = segments(tmp_path)
    for number in range(1000):
        journal.begin(str(number), LINE)
        journal.settle(end(journal, str(number)))
        journal.tidy()
    assert len(segments(tmp_path)) <= len(before) + 1


def test_what_the_database_has_not_stays(journal: Journal, tmp_path: Path) -> None:
    for number in range(200):
        end(journal, str(number))
        journal.tidy()
    kept = [frame for path in segments(tmp_path) for frame in frames(path.read_bytes())]
    assert len(kept) == 200


def test_a_request_that_takes_long_is_written_down_again(journal: Journal, tmp_path: Path) -> None:
    journal.begin("long", b"long")
    for number in range(1000):
        journal.settle(end(journal, str(number)))
        journal.tidy()
    assert len(segments(tmp_path)) <= 3 + MAX_PINNED
    kept = [frame for path in segments(tmp_path) for frame in frames(path.read_bytes())]
    assert (BEGIN, b"long") in kept
    journal.settle(end(journal, "long"))
    assert journal.open == 0


def test_a_full_disk_is_told_before_what_runs_has_no_room(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    running: list[str] = []
    while journal.extend():
        running.append(str(len(running)))
        journal.begin(running[-1], LINE)
    assert running
    assert journal.end("refused", LINE) is None  # leaves the rest to those
    assert scarce(journal)
    for place in [end(journal, name) for name in running]:
        journal.settle(place)
    journal.tidy()
    assert not scarce(journal)


def test_a_disk_that_has_room_again_heals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full_disk)
        journal = Journal(tmp_path, SIZE)
        assert scarce(journal)
        assert journal.end("one", LINE) is None
    journal.tidy()
    assert not scarce(journal)
    assert journal.end("two", LINE) is not None
    journal.close()


def test_a_write_that_fails_makes_it_scarce_until_one_succeeds(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full_disk)
        assert journal.end("one", LINE) is None
        journal.tidy()
        assert scarce(journal)
    journal.tidy()
    assert not scarce(journal)
    assert journal.end("two", LINE) is not None


def test_one_that_has_all_in_the_database_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    journal.begin("one", LINE)
    journal.settle(end(journal, "one"))
    journal.close()
    assert list(tmp_path.glob("*.journal")) == []


def test_the_lock_says_who_lives(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    journal.begin("one", LINE)
    (place,) = tmp_path.glob("*.journal")
    with locked(tmp_path):
        assert try_lock(place) is None
    journal.close()
    with locked(tmp_path):
        lock = try_lock(place)
    assert lock is not None
    unlock(lock)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    journal.begin("one", LINE)
    (place,) = tmp_path.glob("*.journal")
    born, alive = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(alive[1])
        os.write(born[1], b".")
        os.read(alive[0], 1)  # until the test is over
        os._exit(0)
    try:
        os.read(born[0], 1)
        journal.close()
        lock = try_lock(place)
        assert lock is not None
        unlock(lock)
    finally:
        for fd in (*born, *alive):
            os.close(fd)
        os.waitpid(child, 0)
