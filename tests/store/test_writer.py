"""The thread that writes, before a database that fails when a test says so."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import IntegrityError, OperationalError

from gateway.store.writer import BUSY_TIMEOUT_S, MAX_GROUP, Change, Writer
from tests.store.conftest import Clock

SEVERAL_GROUPS = 3 * MAX_GROUP


def locked() -> OperationalError:
    cause = sqlite3.OperationalError("database is locked")
    cause.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return OperationalError("BEGIN IMMEDIATE", None, cause)


@contextmanager
def working() -> Iterator[Connection]:
    with create_engine("sqlite://").connect() as connection:
        yield connection


class Held:
    """A database whose next try waits until it is let go, and may fail then."""

    def __init__(self, clock: Clock) -> None:
        self.tries = 0
        self.inside = threading.Event()
        self._clock = clock
        self._go_on = threading.Event()
        self._then: Callable[[], None] | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        self.tries += 1
        self.inside.set()
        self._go_on.wait(10)
        self._go_on.clear()
        if self._then is not None:
            self._then()
        with working() as connection:
            yield connection

    def go_on(self) -> None:
        self._then = None
        self._go_on.set()

    def fail_after(self, seconds: float) -> None:
        def fail() -> None:
            self._clock.now += seconds
            raise locked()

        self.inside.clear()
        self._then = fail
        self._go_on.set()

    async def tried(self) -> None:
        assert await asyncio.to_thread(self.inside.wait, 10)


def begun(writer: Writer, change: Change[None], number: int = 1) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(writer.run(change)) for _ in range(number)]


def nothing(_: Connection) -> None:
    pass


async def failures(tasks: list[asyncio.Task[None]]) -> list[type[object]]:
    return [type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)]


async def test_what_waited_for_a_lock_is_not_given_another_wait(clock: Clock) -> None:
    held = Held(clock)
    writer = Writer(held.begin, clock)
    waiting = begun(writer, nothing)
    await held.tried()
    waiting += begun(writer, nothing, SEVERAL_GROUPS)
    await asyncio.sleep(0)
    held.fail_after(BUSY_TIMEOUT_S)
    assert await failures(waiting) == [OperationalError] * (1 + SEVERAL_GROUPS)
    assert held.tries == 1
    (healed,) = begun(writer, nothing)
    await held.tried()
    held.go_on()
    await healed
    await writer.close()


async def test_what_came_during_the_wait_is_tried_once_more(clock: Clock) -> None:
    held = Held(clock)
    writer = Writer(held.begin, clock)
    first = begun(writer, nothing)
    await held.tried()
    clock.now += 1
    later = begun(writer, nothing, SEVERAL_GROUPS)
    await asyncio.sleep(0)
    held.fail_after(BUSY_TIMEOUT_S - 1)
    assert await failures(first) == [OperationalError]
    await held.tried()
    held.fail_after(BUSY_TIMEOUT_S)
    assert await failures(later) == [OperationalError] * SEVERAL_GROUPS
    assert held.tries == 2
    await writer.close()


async def test_a_change_that_fails_by_itself_is_nothing_to_those_that_wait(clock: Clock) -> None:
    def refuse(_: Connection) -> None:
        clock.now += BUSY_TIMEOUT_S
        raise IntegrityError("INSERT", None, Exception("UNIQUE constraint failed"))

    writer = Writer(working, clock)
    refused, others = begun(writer, refuse), begun(writer, nothing, SEVERAL_GROUPS)
    assert await failures(refused) == [IntegrityError]
    assert await failures(others) == [type(None)] * SEVERAL_GROUPS
    await writer.close()


async def test_a_database_that_is_not_locked_is_tried_for_all(clock: Clock) -> None:
    begun_first, go_on = threading.Event(), threading.Event()

    @contextmanager
    def begin() -> Iterator[Connection]:
        if not begun_first.is_set():
            begun_first.set()
            go_on.wait(10)
            clock.now += BUSY_TIMEOUT_S
            raise OperationalError("INSERT", None, Exception("statement timeout"))
        with working() as connection:
            yield connection

    writer = Writer(begin, clock)
    first = begun(writer, nothing)
    assert await asyncio.to_thread(begun_first.wait, 10)
    others = begun(writer, nothing, SEVERAL_GROUPS)
    await asyncio.sleep(0)
    go_on.set()
    assert await failures(first) == [OperationalError]
    assert await failures(others) == [type(None)] * SEVERAL_GROUPS
    await writer.close()
