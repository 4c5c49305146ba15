"""Ledgers on databases of the tests, and what they have written."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from gateway.config import LedgerConfig
from gateway.ledger import Entry, Ledger
from gateway.store.database import Database
from gateway.store.tenant_tables import ledger
from tests.store.conftest import Clock, clock, url

__all__ = ["clock", "url"]

_numbers = itertools.count()

OpenLedger = Callable[..., Ledger]


def entry(**fields: Any) -> Entry:
    """A request that was answered."""
    given: dict[str, Any] = {
        "request_id": f"req_{next(_numbers)}",
        "caller": "ann",
        "endpoint": "/v1/chat/completions",
        "at": 1_800_000_000.0,
        "model": "tiny",
        "outcome": "completed",
        "status": 200,
        "finish": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "cost": 12,
        "total_s": 0.5,
        **fields,
    }
    return Entry(**given)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    found = Database(url)
    yield found
    await found.close()


@pytest.fixture
async def open_ledger(
    database: Database, clock: Clock, tmp_path: Path
) -> AsyncIterator[OpenLedger]:
    """Open ledgers with one journal's directory; those that weren't started are closed, too."""
    async with AsyncExitStack() as stack:

        def open_it(**settings: Any) -> Ledger:
            config = LedgerConfig(journal=str(tmp_path / "journal"), **settings.pop("config", {}))
            opened = Ledger(config, database, clock, **settings)
            stack.push_async_callback(opened.close)
            return opened

        yield open_it


async def written(database: Database) -> dict[str, dict[str, Any]]:
    """The rows in the database, by request."""
    rows = await database.read(
        lambda connection: connection.execute(select(ledger)).mappings().all()
    )
    found = {row["request_id"]: dict(row) for row in rows}
    assert len(found) == len(rows)
    return found
