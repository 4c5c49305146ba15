"""Whatever happens in whichever order, each request is in the database exactly once.

The machine is the gateway's part: it begins a request only where there is room, and records it
when it ends. Meanwhile the program dies in the middle of any write to the journal, the database
goes and comes back, the disk is full or fails and has room again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
)
from sqlalchemy import Connection, StaticPool, create_engine, select

from gateway.config import LedgerConfig
from gateway.errors import UnavailableError
from gateway.ledger import Entry, Ledger
from gateway.ledger.journal import _held, unlock
from gateway.store.database import Database
from gateway.store.tenant_tables import ledger as table
from tests.ledger.conftest import entry

T = TypeVar("T")
SEGMENT = 4096


class KilledError(BaseException):
    """The program has died, here."""


class Shelf:
    """A database that can go away, and keeps what it has."""

    in_memory, path, location = False, None, "shelf"

    def __init__(self) -> None:
        self.down = False
        self._engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        table.create(self._engine)

    async def write(self, change: Callable[[Connection], T]) -> T:
        if self.down:
            raise UnavailableError("down", code="storage_unavailable", retry_after_s=1)
        with self._engine.begin() as connection:
            return change(connection)

    def rows(self) -> list[dict[str, Any]]:
        with self._engine.begin() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

    def close(self) -> None:
        self._engine.dispose()


class LedgerMachine(RuleBasedStateMachine):
    running = Bundle("running")

    @initialize()
    def open(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.home = Path(tempfile.mkdtemp())
        self.shelf = Shelf()
        self.bytes_left: int | None = None
        self.full = self.failing = False
        self.recorded: dict[str, Entry] = {}
        self.begun: dict[str, Entry] = {}
        # What died while it was being told, and refusals that found no room.
        self.unsure: set[str] = set()
        # What ended while the disk failed: known to have run, at least.
        self.weak: dict[str, Entry] = {}
        self.lost: set[str] = set()
        pwrite, fallocate = os.pwrite, os.posix_fallocate

        def limited_pwrite(fd: int, content: bytes, at: int) -> int:
            if self.failing:
                raise OSError(errno.EIO, "Input/output error")
            if self.bytes_left is None or len(content) < self.bytes_left:
                self.bytes_left = self.bytes_left and self.bytes_left - len(content)
                return pwrite(fd, content, at)
            pwrite(fd, content[: self.bytes_left], at)
            raise KilledError

        def limited_fallocate(fd: int, at: int, size: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            fallocate(fd, at, size)

        self.patch.setattr(os, "pwrite", limited_pwrite)
        self.patch.setattr(os, "posix_fallocate", limited_fallocate)
        self.ledger = self._opened()

    @rule(target=running)
    def begin(self) -> Any:
        """A request comes, and an engine is given it."""
        try:
            self.ledger.require_room()
        except UnavailableError:
            return multiple()
        except KilledError:
            self._died()
            return multiple()
        new = entry(completion_tokens=0, outcome="failed", finish=None)
        try:
            self.ledger.begin(new)
        except UnavailableError:
            return multiple()
        except KilledError:
            self.unsure.add(new.request_id)
            self._died()
            return multiple()
        self.begun[new.request_id] = new
        return new

    @rule(
        ended=consumes(running),
        tokens=st.integers(0, 1000),
        outcome=st.sampled_from(["completed", "cancelled", "interrupted", "failed"]),
    )
    def end(self, ended: Entry, tokens: int, outcome: Any) -> None:
        if ended.request_id not in self.begun:  # its program is dead
            return
        del self.begun[ended.request_id]
        ended.completion_tokens, ended.outcome = tokens, outcome
        try:
            self.ledger.record(ended)
        except KilledError:
            self.unsure.add(ended.request_id)
            self._died()
        else:
            (self.weak if self.failing else self.recorded)[ended.request_id] = ended
            self.ledger.record(ended)

    @rule()
    def refuse(self) -> None:
        """A request is refused before it begins."""
        assert self.ledger._journal
        new = entry(outcome="rejected", status=429, prompt_tokens=0, completion_tokens=0)
        scarce = self.ledger._journal.scarce or self.failing
        try:
            self.ledger.record(new)
        except KilledError:
            self.unsure.add(new.request_id)
            self._died()
        else:
            if scarce:
                self.unsure.add(new.request_id)
            else:
                self.recorded[new.request_id] = new

    @rule()
    def flush(self) -> None:
        self._run(self.ledger.flush)

    @rule()
    def upkeep(self) -> None:
        self._run(self.ledger.upkeep)

    @rule(down=st.booleans())
    def database(self, down: bool) -> None:
        self.shelf.down = down

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.full = full

    @rule(failing=st.booleans())
    def disk_fails(self, failing: bool) -> None:
        self.failing = failing

    @rule(written=st.integers(0, 3000))
    def die_soon(self, written: int) -> None:
        """In the midst of a write, after so many more bytes."""
        self.bytes_left = written

    @rule()
    def die(self) -> None:
        self._died()

    @rule()
    def restart(self) -> None:
        """End on purpose; what still runs has no time to."""
        self._run(self.ledger.close)
        if self.ledger._closed:
            self.lost |= self.begun.keys()
            self.begun.clear()
            self.ledger = self._opened()

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.patch.undo()
        self.shelf.down, self.full = False, False
        self._died()
        asyncio.run(self.ledger.upkeep())
        found = {row.pop("request_id"): row for row in self.shelf.rows()}
        left = sorted(path.name for path in self.home.glob("*.journal"))
        asyncio.run(self.ledger.close())
        self.shelf.close()
        shutil.rmtree(self.home)
        self._compare(found)
        assert len(left) == 1  # the last one's own

    def _compare(self, found: dict[str, dict[str, Any]]) -> None:
        for request_id, one in self.recorded.items():
            row = found.pop(request_id)
            assert row["outcome"] == one.outcome
            assert row["completion_tokens"] == one.completion_tokens
        for request_id, one in self.weak.items():
            row = found.pop(request_id)
            whole = (one.outcome, one.completion_tokens)
            assert (row["outcome"], row["completion_tokens"]) in (whole, ("lost", 0))
        for request_id in self.lost:
            assert found.pop(request_id)["outcome"] == "lost"
        assert found.keys() <= self.unsure

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            asyncio.run(work())
        except UnavailableError:
            pass
        except KilledError:
            self._died()

    def _died(self) -> None:
        """The kernel closes what the program had open."""
        self.bytes_left = None
        journal = self.ledger._journal
        if journal is not None:
            for segment in [*journal._spare, *journal._filled, journal._current]:
                if segment is not None:
                    segment.close()
            unlock(journal._lock)
        self.lost |= self.begun.keys()
        self.begun.clear()
        self.ledger = self._opened()

    def _opened(self) -> Ledger:
        while True:
            try:
                return Ledger(
                    LedgerConfig(journal=str(self.home)),
                    cast(Database, self.shelf),
                    lambda: 1_800_000_000.0,
                    segment_bytes=SEGMENT,
                )
            except KilledError:
                self.bytes_left = None
                for lock in list(_held):
                    unlock(lock)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
