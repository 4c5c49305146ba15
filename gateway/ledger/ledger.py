"""The ledger: takes rows at once, and brings them to the database in groups.

A row is in the journal before `record` returns; a task writes what has come to the database about
once a second, which then has it for good. What it can't write waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy.exc import DataError, IntegrityError

from gateway.config import ConfigError, LedgerConfig
from gateway.errors import UnavailableError
from gateway.ledger.entry import COLUMNS, Entry, Row, encode, row
from gateway.ledger.journal import SEGMENT_BYTES, Journal
from gateway.ledger.replay import replay
from gateway.ledger.segment import Segment
from gateway.store import usage
from gateway.store.database import Database, state_directory
from gateway.store.upkeep import DAY_S, attempt, keep_up, purge
from gateway.store.usage import Spent
from gateway.tenants import Window

logger = logging.getLogger(__name__)

GROUP = 512
LINGER_S = 1.0
RETRY_CAP_S = 5.0
UPKEEP_S = 60.0
MAX_WAITING = 100_000
_WHAT = "ledger"
# What a row's own values make the database refuse. Everything else is the database's trouble.
_UNFIT = (DataError, IntegrityError, OverflowError, TypeError, ValueError)


class Ledger:
    """For one event loop. `clock` tells seconds since the epoch.

    `max_waiting` rows may wait for the database; with more, new requests are refused. A row waits
    for `linger_s`, so that many are written together. State in memory has no journal.

    Raises ConfigError where the journal's directory can't be used.
    """

    def __init__(
        self,
        config: LedgerConfig,
        database: Database,
        clock: Callable[[], float] = time.time,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        max_waiting: int = MAX_WAITING,
        linger_s: float = LINGER_S,
    ) -> None:
        self.dropped = self._told = 0
        self._database = database
        self._clock = clock
        self._retention_s = config.retention_days * DAY_S
        self._max_waiting = max_waiting
        self._linger_s = linger_s
        self._home = journal_home(config, database)
        self._journal = _opened(self._home, segment_bytes)
        self._rows: list[Row] = []
        self._places: list[Segment | None] = []
        self._closed = False
        self._draining = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Rows that the database hasn't got yet."""
        return len(self._rows)

    def require_room(self) -> None:
        """Raises UnavailableError (503) while one more request might not be written down."""
        journal = self._journal
        short = journal is not None and journal.scarce and not journal.extend()
        if short or len(self._rows) >= self._max_waiting:
            raise _no_room()

    def begin(self, entry: Entry) -> None:
        """An engine is about to be given the request. Should this program die before `record`, it
        becomes `lost`, with what `entry` says now.

        Raises UnavailableError (503) where that can't be written down, in spite of
        `require_room`: the disk fails. The engine must not be given it then.
        """
        journal = self._journal
        if entry.recorded:
            return
        if journal is not None and not journal.begin(entry.request_id, encode(entry)):
            raise _no_room()
        entry.begun = True

    def record(self, entry: Entry) -> None:
        """Write `entry` down, the first time. What it says is final. Never raises.

        From its return on the row survives the program's death; after a power cut what came in
        the last moments may be missing. Where there is no room (see `require_room`), it waits in
        memory; of requests that never began no more than fits there, and the rest is counted in
        `dropped`.
        """
        if entry.recorded:
            return
        try:
            self._take(entry)
        except Exception:
            logger.exception("the ledger can't take %r", entry)
        entry.recorded = True

    async def start(self) -> None:
        """Bring in what dead programs have left, and begin to write. Where the database fails, go
        on trying."""
        if self._journal is None:
            logger.info("state is in memory: the ledger ends with the program")
        await attempt(self.upkeep, _WHAT)
        self._tasks = [
            asyncio.create_task(self._work(), name="ledger-writer"),
            asyncio.create_task(keep_up(self.upkeep, _WHAT, UPKEEP_S), name="ledger-upkeep"),
        ]

    async def close(self) -> None:
        """Write everything to the database; what that doesn't take stays in the journal, for the
        next start. The database has to be open still."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        with contextlib.suppress(UnavailableError):
            await self.flush()
        self._closed = True
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    async def flush(self) -> None:
        """Return once the database has everything recorded before. Raises UnavailableError."""
        async with self._draining:
            try:
                await self._drain(len(self._rows))
            finally:
                if self._journal is not None:
                    self._journal.tidy()

    async def upkeep(self) -> None:
        """Bring in the journals of programs that died meanwhile, delete rows that are too old: a
        bounded number. Raises UnavailableError."""
        if self._home is not None:
            await replay(self._home, self._insert)
        before = self._clock() - self._retention_s
        await purge(self._database, partial(usage.purge, before))

    async def spent(self, windows: Iterable[Window]) -> list[Spent]:
        """What keys and teams have used in each of the current `windows`. Raises
        UnavailableError."""
        await self.flush()
        query = partial(usage.spent, windows=tuple(windows), now=self._clock())
        return await self._database.read(query)

    def _take(self, entry: Entry) -> None:
        if self._closed:
            logger.error("the ledger was closed before %r ended", entry)
        if not entry.begun and len(self._rows) >= 2 * self._max_waiting:
            if self.dropped == self._told:
                logger.error("requests that no engine had aren't written down: too many rows wait")
            self.dropped += 1
            return
        payload = encode(entry)
        journal = self._journal
        self._places.append(journal.end(entry.request_id, payload) if journal else None)
        self._rows.append(row(entry))

    async def _work(self) -> None:
        pause = self._linger_s
        while True:
            await asyncio.sleep(pause)
            try:
                await self.flush()
                pause = self._linger_s
                self._tell_dropped()
            except UnavailableError:  # the database has logged it
                pause = min(2 * pause, max(self._linger_s, RETRY_CAP_S))
            except Exception:
                logger.exception("the ledger can't be written")

    def _tell_dropped(self) -> None:
        if new := self.dropped - self._told:
            logger.error("%d requests that no engine had were not written down", new)
            self._told = self.dropped

    async def _drain(self, rows: int) -> None:
        """Give the first `rows` that wait to the database."""
        while rows > 0:
            group = self._rows[: min(rows, GROUP)]
            await self._insert(group)
            for place in self._places[: len(group)]:
                if self._journal is not None and place is not None:
                    self._journal.settle(place)
            del self._rows[: len(group)], self._places[: len(group)]
            rows -= len(group)

    async def _insert(self, rows: Sequence[Row]) -> None:
        try:
            await self._database.write(partial(usage.insert, columns=COLUMNS, rows=rows))
        except _UNFIT:
            if len(rows) == 1:
                # It will never do, and must not keep the others from the database.
                logger.exception("the ledger's database refuses %r", rows[0])
                return
            for one in rows:
                await self._insert([one])


def _no_room() -> UnavailableError:
    return UnavailableError(
        "The server can't write down what it does now; retry shortly.",
        code="storage_unavailable",
        retry_after_s=RETRY_CAP_S,
    )


def journal_home(config: LedgerConfig, database: Database) -> Path | None:
    """The directory of the journals of all programs that use `database`; None: there are none.
    Raises ConfigError."""
    if database.in_memory:
        return None
    if config.journal is not None:
        return Path(config.journal)
    if database.path is not None:
        return Path(f"{database.path}.ledger")
    which = hashlib.sha256(database.location.encode()).hexdigest()[:16]
    return state_directory() / "journal" / which


def _opened(home: Path | None, segment_bytes: int) -> Journal | None:
    try:
        return Journal(home, segment_bytes) if home is not None else None
    except OSError as error:
        raise ConfigError(
            f"ledger.journal: can't use {home}: {error.strerror or error}; name a directory that "
            "can be written"
        ) from None
