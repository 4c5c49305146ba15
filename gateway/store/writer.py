"""The one thread that writes. Changes that wait together are committed together: what a commit
costs, a wait for the disk, is then shared by all of them."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.errors import UnavailableError, draining

T = TypeVar("T")
Change = Callable[[Connection], T]

MAX_GROUP = 128
MAX_TRIES = 5
MAX_WAITING = 4096
BUSY_RETRY_S = 2.0
# How long a lock is waited for.
BUSY_TIMEOUT_S: Final = 5.0
# What is wrong with the database, not with what was asked of it.
FAILURES = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)
# PostgreSQL undid the transaction because of another one; the same again may well succeed.
_LOST_TO_ANOTHER = ("40001", "40P01")


class _Job:
    """A change, who waits for it, and since when."""

    def __init__(self, change: Change[Any], since: float) -> None:
        self.change = change
        self.since = since
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.value: Any = None
        self.error: Exception | None = None

    def tell(self) -> None:
        """Called by the thread, once the change is on disk or has failed."""
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self.future.done():  # nobody waits any more
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Writer:
    """Runs changes one after the other, each in whole or not at all.

    `begin` gives a connection in a transaction that its end commits. The thread starts with the
    first change. `clock` returns seconds and never goes back.
    """

    def __init__(
        self,
        begin: Callable[[], AbstractContextManager[Connection]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._begin = begin
        self._clock = clock
        # Why and when the last try failed, where the database was locked as a whole.
        self._failure: tuple[Exception, float] | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, change: Change[T]) -> T:
        """Return what `change` returns, once it is on disk. It may be called twice: what it did
        the first time was undone then. It is carried out even if the caller is cancelled.

        Raises what `change` raises; UnavailableError where too much waits or this is closed.
        """
        if self._closed:
            raise draining()
        if self._jobs.qsize() >= MAX_WAITING:
            raise UnavailableError(
                "The server has too much to write; retry shortly.",
                code="storage_overloaded",
                retry_after_s=BUSY_RETRY_S,
            )
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="state-writer", daemon=True)
            self._thread.start()
        job = _Job(change, self._clock())
        self._jobs.put(job)
        value: T = await job.future
        return value

    async def close(self) -> None:
        """Return when everything taken is on disk, and the thread has ended."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        going_on = True
        while going_on:
            group: list[_Job] = []
            going_on = self._take(group)
            self._commit(group)
            for job in group:
                job.tell()

    def _take(self, group: list[_Job]) -> bool:
        """Wait for a job, then add what has come with it. False: that was the last."""
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP:
                return True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return True
        return False

    def _commit(self, group: list[_Job], tries: int = MAX_TRIES) -> None:
        group = self._without_late(group)
        if not group:
            return
        self._failure = None
        try:
            with self._begin() as connection:
                for job in group:
                    job.value, job.error = job.change(connection), None
        except Exception as error:
            # Where the database fails it fails everyone. Where a change does, only that one:
            # the others get another try without it.
            if tries > 1 and _lost_to_another(error):
                self._commit(group, tries - 1)
            elif isinstance(error, FAILURES):
                self._failure = (error, self._clock()) if _locked(error) else None
                for job in group:
                    job.error = error
            elif len(group) == 1:
                group[0].error = error
            else:
                for job in group:
                    self._commit([job])

    def _without_late(self, group: list[_Job]) -> list[_Job]:
        """Those of `group` that are to be tried. The others waited for as long as the last try,
        which failed: were each group given its own wait for a lock, the last would wait minutes."""
        if self._failure is None:
            return group
        error, at = self._failure
        in_time = []
        for job in group:
            if at - job.since < BUSY_TIMEOUT_S:
                in_time.append(job)
            else:
                job.error = error
        return in_time


def _locked(error: Exception) -> bool:
    """Whether SQLite was held by another program for as long as is waited for it."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def _lost_to_another(error: Exception) -> bool:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) in _LOST_TO_ANOTHER
