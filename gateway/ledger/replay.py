"""Journals that dead programs have left behind, brought into the database.

A journal is deleted once the database has all of it. Should this program die in between, the next
one begins again: the database takes a request once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from gateway.ledger.entry import Entry, Row, decode, row
from gateway.ledger.journal import JOURNAL, SUFFIX, forget, locked, try_lock, unlock
from gateway.ledger.segment import BEGIN, END, frames

logger = logging.getLogger(__name__)

Insert = Callable[[Sequence[Row]], Awaitable[None]]

GROUP = 500


async def replay(home: Path, insert: Insert) -> int:
    """Bring in every journal below `home` whose program is dead; returns how many requests.

    Raises what `insert` raises; what it hasn't taken then stays. Raises OSError.
    """
    total = 0
    claimed = await asyncio.to_thread(_claim, home)
    try:
        for place, _ in claimed:
            total += await _bring_in(place, insert)
            await asyncio.to_thread(forget, place)
    finally:
        for _, lock in claimed:
            unlock(lock)
    return total


def _claim(home: Path) -> list[tuple[Path, int]]:
    """The journals of the dead, with their locks."""
    if not home.is_dir():
        return []
    with locked(home):
        places = sorted(home.glob(f"*{JOURNAL}"))
        return [(place, lock) for place in places if (lock := try_lock(place)) is not None]


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
