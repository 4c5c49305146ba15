"""The database itself: opened from the configuration, read and written without ever holding up the
event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    StaticPool,
    create_engine,
    event,
)
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gateway.config import ConfigError, UnreachableError
from gateway.config.state import database_url
from gateway.errors import UnavailableError, draining
from gateway.store.migrations import ForeignDatabaseError, NewerSchemaError, migrate
from gateway.store.writer import BUSY_TIMEOUT_S, FAILURES, Change, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

Lane = Literal["requests", "keys", "reports"]
"""Who reads: each has threads and connections of its own. However many reports are being summed up,
requests don't wait for them; and whatever is being read, a revoked key is refused in time."""

READERS: Final[Mapping[Lane, int]] = {"requests": 4, "keys": 1, "reports": 1}
STATEMENT_TIMEOUT_S = 30
RETRY_S = 5.0

_CONNECTIONS = sum(READERS.values()) + 1  # one to write
_WRITES = "gateway_writes"


class Database:
    """One open database, its schema up to date.

    `url` is `state.url`. Raises ConfigError where it can't be opened or isn't ours.
    """

    def __init__(self, url: str | None) -> None:
        self._url = _parsed(url)
        self._in_memory = _is_sqlite(self._url) and self._url.database in (None, "", ":memory:")
        try:
            self._engine = _engine(self._url, self._in_memory)
        except (TypeError, ValueError):  # which say what was given: it may be a password
            raise ConfigError(
                f"state.url: can't use {self.location}: the file's name, or an option behind "
                "'?', is not a valid one"
            ) from None
        self._writing = self._engine.execution_options(**{_WRITES: True})
        try:
            with self._writing.begin() as connection:
                migrate(connection)
        except NewerSchemaError as error:
            self._refuse(f"{error}; upgrade the program, or give it another database")
        except ForeignDatabaseError as error:
            self._refuse(f"{error}; give the gateway a database of its own")
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or error
            self._refuse(
                f"{str(reason).strip()}; name a database that can be written, or 'sqlite://' to "
                "keep state in memory",
                UnreachableError if isinstance(error, OperationalError) else ConfigError,
            )
        except BaseException:
            self._engine.dispose()
            raise
        self._writer = Writer(self._begin)
        self._readers = {
            lane: ThreadPoolExecutor(threads, thread_name_prefix=f"state-{lane}")
            for lane, threads in READERS.items()
        }
        self._closed = False

    @property
    def location(self) -> str:
        """Where it is, without secrets."""
        return _shown(self._url)

    @property
    def in_memory(self) -> bool:
        """Whether it ends with this program, which alone sees it."""
        return self._in_memory

    @property
    def path(self) -> Path | None:
        """The file of a SQLite database; None in memory and on a server."""
        name = self._url.database
        if not _is_sqlite(self._url) or self._in_memory or not name or name.startswith("file:"):
            return None
        return Path(name)

    async def write(self, change: Change[T]) -> T:
        """Run `change` in a transaction and return its result once that is on disk.

        `change` may be called twice; what it did the first time was undone then. Raises
        UnavailableError (503) where the database fails.
        """
        try:
            return await self._writer.run(change)
        except FAILURES as error:
            raise self._unavailable(error) from error

    async def read(self, query: Change[T], *, lane: Lane = "requests", quiet: bool = False) -> T:
        """Run `query`, which changes nothing, behind what was to be read in the same `lane`.
        Raises UnavailableError (503), without a line in the log where it is `quiet`."""
        if self._in_memory:
            return await self.write(query)  # there is but one connection
        if self._closed:
            raise draining()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers[lane], self._query, query)
        except FAILURES as error:
            raise self._unavailable(error, quiet) from error

    async def close(self) -> None:
        """Return when everything that was written is on disk and all files are closed."""
        self._closed = True
        await self._writer.close()
        for readers in self._readers.values():
            await asyncio.to_thread(readers.shutdown)
        self._engine.dispose()

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self._writing.begin() as connection:
            yield connection

    def _query(self, query: Change[T]) -> T:
        with self._engine.begin() as connection:
            return query(connection)

    def _unavailable(self, error: Exception, quiet: bool = False) -> UnavailableError:
        if not quiet:
            logger.error("state database %s: %s", self.location, getattr(error, "orig", error))
        return UnavailableError(
            "The server can't reach its storage now; retry shortly.",
            code="storage_unavailable",
            retry_after_s=RETRY_S,
        )

    def _refuse(self, reason: str, kind: type[ConfigError] = ConfigError) -> NoReturn:
        self._engine.dispose()
        raise kind(f"state.url: can't use {self.location}: {reason}") from None


def _parsed(given: str | None) -> URL:
    if given is None:
        return _default_url()
    try:
        return database_url(given)
    except ValueError as error:
        raise ConfigError(f"state.url: {error}") from None


def state_directory() -> Path:
    """Where state is kept that is told no other place. Raises ConfigError."""
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        root = Path(base) if os.path.isabs(base) else Path("~/.local/state").expanduser()
    except RuntimeError:
        raise ConfigError(
            "state.url: there is no home directory to keep state in; set state.url, e.g. to "
            "sqlite:////var/lib/gateway/state.db"
        ) from None
    return root / "gateway"


def _default_url() -> URL:
    return URL.create("sqlite", database=str(state_directory() / "state.db"))


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _shown(url: URL) -> str:
    if _is_sqlite(url):
        return url.database or "state in memory"
    return url.set(query={}).render_as_string(hide_password=True)


def _engine(url: URL, in_memory: bool) -> Engine:
    if not _is_sqlite(url):
        return _postgres_engine(url)
    if in_memory:
        engine = create_engine(
            url,
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
            hide_parameters=True,
        )
    else:
        _create_file(url)
        engine = create_engine(
            url,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            connect_args={"timeout": BUSY_TIMEOUT_S},
            hide_parameters=True,  # they are what clients wrote, and errors are logged
        )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _create_file(url: URL) -> None:
    """Readable by nobody else, as are then the files that SQLite puts beside it."""
    if url.database is None or url.database.startswith("file:"):
        return
    path = Path(url.database)
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError(
            f"state.url: can't use {path}: {error.strerror or error}; name a file that can be "
            "written, or 'sqlite://' to keep state in memory"
        ) from None


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Transactions begin where we say, not where the driver guesses."""
    connection.isolation_level = None
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")


def _write_ahead(connection: Any) -> None:
    """Two that open a new file at once both read it and then both want it for themselves; SQLite
    tells one of them at once that it is locked, without the wait it is given elsewhere."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    # A transaction that begins by reading can't become a writer once another has written.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgres_engine(url: URL) -> Engine:
    limits = {"connect_timeout": 10, "tcp_user_timeout": STATEMENT_TIMEOUT_S * 1000}
    try:
        engine = create_engine(
            url,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={**limits, **url.query},
            hide_parameters=True,
        )
    except ModuleNotFoundError:
        raise ConfigError(
            "state.url: PostgreSQL needs the package psycopg: pip install 'psycopg[binary]'"
        ) from None
    event.listen(engine, "connect", _prepare_postgres)
    event.listen(engine, "handle_error", _without_values)
    return engine


def _prepare_postgres(connection: Any, _record: object) -> None:
    connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
    connection.commit()


def _without_values(failure: ExceptionContext) -> None:
    """PostgreSQL's details tell what a constraint refused, which is what clients wrote."""
    cause = failure.original_exception
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    if primary:
        cause.args = (primary,)
        if failure.sqlalchemy_exception is not None:
            failure.sqlalchemy_exception.args = (f"({type(cause).__name__}) {primary}",)
