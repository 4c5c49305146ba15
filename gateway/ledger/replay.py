"""Journals that dead programs have left behind, brought into the database.

A journal is deleted once the database has all of it. Should this program die in between, the next
one begins again: the database takes a request once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from gateway.ledger.entry import Entry, Row, decode, row
from gateway.ledger.journal import JOURNAL, SUFFIX, forget, locked, try_lock, unlock
from gateway.ledger.segment import BEGIN, END, UnreadableError, frames, require_readable

logger = logging.getLogger(__name__)

Insert = Callable[[Sequence[Row]], Awaitable[None]]

GROUP = 500


async def replay(home: Path, insert: Insert) -> int:
    """Bring in every journal below `home` whose program is dead; returns how many requests.

    One that can't be read stays, and is told of in the log; so does what `insert` hasn't taken.
    Raises what `insert` raises.
    """
    total = 0
    for place in await asyncio.to_thread(_journals, home):
        try:
            total += await _replay_one(home, place, insert)
        except UnreadableError:
            logger.error(
                "the ledger's journal %s is of another version, or damaged: it stays for a gateway "
                "that can read it; delete it if there is none",
                place,
            )
        except OSError as error:
            logger.error("can't bring in the ledger's journal %s: %s", place, error)
    return total


async def _replay_one(home: Path, place: Path, insert: Insert) -> int:
    lock = await asyncio.to_thread(_claim, home, place)
    if lock is None:
        return 0
    try:
        await asyncio.to_thread(_require_readable, place)
        found = await _bring_in(place, insert)
        await asyncio.to_thread(forget, place)
        return found
    finally:
        unlock(lock)


def _journals(home: Path) -> list[Path]:
    return sorted(home.glob(f"*{JOURNAL}"))


def _claim(home: Path, place: Path) -> int | None:
    """The lock of a journal; None where its program lives, or it is gone. Raises OSError."""
    with locked(home), contextlib.suppress(FileNotFoundError):
        return try_lock(place)
    return None


def _require_readable(place: Path) -> None:
    for path in place.glob(f"*{SUFFIX}"):
        require_readable(path)


async def _bring_in(place: Path, insert: Insert) -> int:
    begun: dict[str, Entry] = {}
    ended: set[str] = set()
    for path in await asyncio.to_thread(lambda: sorted(place.glob(f"*{SUFFIX}"))):
        started, over = await asyncio.to_thread(_read, path)
        begun.update((entry.request_id, entry) for entry in started)
        ended.update(entry.request_id for entry in over)
        await _in_groups(over, insert)
    lost = [entry for key, entry in begun.items() if key not in ended]
    for entry in lost:
        entry.outcome = "lost"
    await _in_groups(lost, insert)
    if ended or lost:
        logger.info(
            "replayed the ledger's journal of a program that died",
            extra={"ended": len(ended), "lost": len(lost)},
        )
    return len(ended) + len(lost)


async def _in_groups(entries: Sequence[Entry], insert: Insert) -> None:
    for start in range(0, len(entries), GROUP):
        await insert([row(entry) for entry in entries[start : start + GROUP]])


def _read(path: Path) -> tuple[list[Entry], list[Entry]]:
    """What began in a segment, and what ended."""
    found: dict[int, list[Entry]] = {BEGIN: [], END: []}
    for kind, payload in frames(path.read_bytes()):
        if kind not in found:
            continue
        try:
            found[kind].append(decode(payload))
        except msgspec.DecodeError:
            # Whole, by its checksum, but of a program that knew more: the line keeps what it says.
            logger.exception("a row of the ledger's journal can't be read: %r", payload)
    return found[BEGIN], found[END]
