"""What a gateway holds beside memory, to be compared with what it held before."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Final

import psutil

_POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Held:
    """What a gateway holds beside memory, each by its kind or name, and how many: living processes
    below it, open descriptors, names in its shared memory (of which nothing is known where it isn't
    alone in there) and files in its temporary directory."""

    processes: Counter[str]
    descriptors: Counter[str]
    shared: Counter[str]
    files: Counter[str]

    def beyond(self, other: Held) -> list[str]:
        """What it holds more of than `other`."""
        return [
            f"{what}: {before.total()} → {now.total()}, {dict(now - before)}"
            for what, now, before in self._beside(other)
            if now.total() > before.total()
        ]

    def told(self) -> dict[str, int]:
        """How many of each."""
        return {what: held.total() for what, held, _ in self._beside(self)}

    def _beside(self, other: Held) -> Iterator[tuple[str, Counter[str], Counter[str]]]:
        for one in fields(self):
            yield one.name, getattr(self, one.name), getattr(other, one.name)


def held_by(
    pid: int,
    family: Sequence[psutil.Process],
    temporary: Path,
    database: Path,
    *,
    alone: bool,
) -> Held:
    """By process `pid`, with `family` below it; `alone` in its shared memory. Connections to its
    `database` aren't counted: they are pooled, and opened as they are needed. Raises OSError: it
    is gone."""
    own = Path(f"/proc/{pid}")
    return Held(
        Counter(process.name() for process in family),
        Counter(_kinds(own / "fd", str(database))),
        Counter(map(_general, os.listdir(own / "root/dev/shm")) if alone else ()),
        Counter(_general(name) for _, _, names in os.walk(temporary) for name in names),
    )


def _kinds(descriptors: Path, apart: str) -> Iterator[str]:
    """What each of a process's descriptors is: `socket`, `pipe`, `anon_inode:[pidfd]`, a path that
    doesn't begin with `apart`."""
    for one in os.listdir(descriptors):
        with suppress(FileNotFoundError):
            what = os.readlink(descriptors / one)
            if not what.startswith(apart):
                yield _general(what)


def _general(name: str) -> str:
    """Without what makes it different from all others of its kind."""
    return re.sub(r"[0-9a-f-]*\d[0-9a-f-]*", "*", name)


async def gone(family: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that still live after `timeout_s` at most."""
    begun = perf_counter()
    while living := [process for process in family if _lives(process)]:
        if perf_counter() - begun > timeout_s:
            break
        await asyncio.sleep(_POLL_S)
    return living


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
