"""A real program, killed at any moment, again and again: no row is missing, none is there twice."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.config import LedgerConfig
from gateway.ledger import Entry, Ledger
from gateway.store.database import Database
from tests.ledger.conftest import entry, written

KILLS = 20

# One program imports everything once, and has children that are to die.
programs = multiprocessing.get_context("forkserver")
programs.set_forkserver_preload([__name__, "gateway.ledger", "gateway.store.migrations"])


async def work(url: str, name: str, told: int) -> None:
    """Tell what has begun and is recorded, once it is; many of them before the database has any."""
    ledger = Ledger(LedgerConfig(), Database(url), segment_bytes=65_536, linger_s=0.005)
    await ledger.start()
    running: list[Entry] = []
    for number in itertools.count():
        new = entry(request_id=f"{name}-{number}", completion_tokens=0)
        ledger.begin(new)
        os.write(told, f"+{new.request_id}\n".encode())
        running.append(new)
        if len(running) > 8:
            ended = running.pop(number * 7 % 5)
            ended.completion_tokens = 5
            ledger.record(ended)
            os.write(told, f"-{ended.request_id}\n".encode())
        if not number % 20:
            await asyncio.sleep(0.001)


def program(url: str, name: str, told: Connection) -> None:
    asyncio.run(work(url, name, told.fileno()))


def run_and_kill(url: str, name: str, lines: int) -> tuple[set[str], set[str]]:
    """What a program told of before it was killed, after so many lines: begun, recorded."""
    reader, writer = programs.Pipe(duplex=False)
    victim = programs.Process(target=program, args=(url, name, writer))
    victim.start()
    writer.close()
    with open(reader.fileno(), "rb", closefd=False) as stream:
        told = [stream.readline() for _ in range(lines)]
        victim.kill()
        told += stream.read().splitlines(keepends=True)
    victim.join()
    reader.close()
    found = [line.decode().strip() for line in told if line.endswith(b"\n")]
    assert len(found) >= lines, "it ended by itself"
    begun, recorded = ({line[1:] for line in found if line[0] == sign} for sign in "+-")
    return begun, recorded


@pytest.mark.parametrize("seed", [random.randrange(1 << 32)])
async def test_a_program_killed_at_any_moment_loses_nothing(tmp_path: Path, seed: int) -> None:
    url, chance = f"sqlite:///{tmp_path}/state.db", random.Random(seed)
    begun: set[str] = set()
    recorded: set[str] = set()
    for number in range(KILLS):
        one, other = run_and_kill(url, f"p{number}", chance.randrange(1, 4000))
        begun |= one
        recorded |= other
    database = Database(url)
    ledger = Ledger(LedgerConfig(), database)
    await ledger.upkeep()
    rows = await written(database)
    sound = await database.read(
        lambda connection: connection.scalar(text("PRAGMA integrity_check"))
    )
    await ledger.close()
    await database.close()
    assert sound == "ok"
    assert begun <= rows.keys()
    for request_id in recorded:
        assert rows[request_id]["outcome"] == "completed"
        assert rows[request_id]["completion_tokens"] == 5
    # The last thing each did may be untold; there is nothing else.
    untold = rows.keys() - begun
    assert len(untold) <= KILLS
    lost = {key for key, row in rows.items() if row["outcome"] == "lost"}
    assert not lost & recorded
    assert len(begun - recorded - lost) <= KILLS
    assert list((tmp_path / "state.db.ledger").glob("*.journal")) == []
