"""The journal of one running program: what it has begun and ended, until the database knows.

A directory of its own below `home`: a file `lock`, held for as long as the program lives, and the
segments. Whoever finds a journal whose lock is free takes the lock and replays it, see `replay`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from gateway.ledger.segment import BEGIN, END, FRAME_BYTES, MAX_PAYLOAD, PROBE, Segment

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 4 * 1024 * 1024
LOCK = "lock"
SUFFIX = ".segment"
# Of a journal's directory. Whatever else is in the place that the configuration names stays.
JOURNAL = ".journal"
# What is kept free for the ends of requests that have begun, each. Most need a third of it.
END_BYTES = 1024
# So many filled segments wait for requests that take long, before those are written down again.
MAX_PINNED = 2

# A child that is forked off without a new program would hold the locks of a dead parent.
_held: set[int] = set()


def _let_go() -> None:
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


class Journal:
    """A new one below `home`, its first segments on disk. Raises OSError where `home` can't be
    written to; a full disk is no error here, but `scarce`.

    For one thread.
    """

    def __init__(self, home: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._size = segment_bytes
        self._open: dict[str, tuple[Segment, bytes]] = {}
        self._current: Segment | None = None
        self._spare: list[Segment] = []
        self._filled: list[Segment] = []
        self._numbers = count(1)
        self._broken = self._refused = False
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._place = home / f"{secrets.token_hex(8)}{JOURNAL}"
        with locked(home):
            self._place.mkdir(mode=0o700)
            if (lock := try_lock(self._place)) is None:
                raise OSError("its file system gives no locks")
            self._lock = lock
        self.tidy()

    @property
    def scarce(self) -> bool:
        """Whether the ends of what has begun may not find room, if more begins."""
        return self._broken or self._room < self._reserve

    @property
    def open(self) -> int:
        """Requests that have begun and not ended."""
        return len(self._open)

    def begin(self, request_id: str, payload: bytes) -> bool:
        """`request_id` is at an engine from now on; False: there was no room to say so. Once more:
        written down anew."""
        segment = self._write(BEGIN, payload)
        if segment is None:
            return False
        segment.unsettled += 1
        if before := self._open.get(request_id):
            before[0].unsettled -= 1
        self._open[request_id] = segment, payload
        return True

    def end(self, request_id: str, payload: bytes) -> Segment | None:
        """The end of `request_id`, or of one that never began. To be given to `settle` once the
        database has it; None: there was no room."""
        begun = self._open.pop(request_id, None)
        # Refusals, of which there may be any number, leave room for the ends of what runs.
        segment = self._write(END, payload) if begun or not self.scarce else None
        if segment is None:
            return begun and begun[0]  # so that its beginning is kept until the database has it
        segment.unsettled += 1
        if begun:
            begun[0].unsettled -= 1
        return segment

    def settle(self, segment: Segment) -> None:
        """The database has what `end` gave `segment` for."""
        segment.unsettled -= 1

    def tidy(self) -> None:
        """Fill again what holds nothing any more, and make room ahead of need. Does what the disk
        allows, and can be called again."""
        self._refused = False
        self._forward()
        for segment in [one for one in self._filled if not one.unsettled]:
            self._filled.remove(segment)
            self._reuse(segment)
        self.extend()
        if self._broken and self._current is not None:
            self._turn_over()
            self._write(PROBE, b"")

    def extend(self) -> bool:
        """Make room where it is getting scarce; whether it isn't then."""
        while self._room < self._size + self._reserve and not self._refused:
            path = self._place / f"{next(self._numbers)}{SUFFIX}"
            try:
                self._spare.append(Segment(path, self._size))
            except OSError as error:
                self._refused = True  # until the next `tidy`: asking costs
                logger.error("no room for the ledger's journal in %s: %s", self._place, error)
        if self._current is None and self._spare:
            self._current = self._spare.pop()
        return not self.scarce

    def close(self) -> None:
        """Give the lock back; what still matters stays, to be replayed."""
        held = [*self._spare, *self._filled, *([self._current] if self._current else [])]
        if any(segment.unsettled for segment in held):
            for segment in held:
                segment.close()
        else:
            for segment in held:
                segment.remove()
            forget(self._place)
        self._spare, self._filled, self._current, self._broken = [], [], None, True
        unlock(self._lock)

    @property
    def _room(self) -> int:
        current = self._current.room if self._current else 0
        return current + sum(segment.room for segment in self._spare)

    @property
    def _reserve(self) -> int:
        """Half a segment is for what was let in and will begin."""
        return self._size // 2 + len(self._open) * END_BYTES

    def _write(self, kind: int, payload: bytes) -> Segment | None:
        if len(payload) > MAX_PAYLOAD:
            return None
        if self._current is None or self._current.room < len(payload) + FRAME_BYTES:
            self._turn_over()
        if self._current is None:
            return None
        try:
            self._current.append(kind, payload)
        except OSError as error:
            if not self._broken:
                logger.error("can't write to the ledger's journal %s: %s", self._place, error)
            self._broken = True
            return None
        self._broken = False
        return self._current

    def _turn_over(self) -> None:
        if not self._spare:
            self.extend()
        if self._spare:
            if self._current is not None:
                self._filled.append(self._current)
            self._current = self._spare.pop()

    def _reuse(self, segment: Segment) -> None:
        if self._room >= self._size + self._reserve:
            segment.remove()
            return
        try:
            segment.restart()
        except OSError:
            segment.remove()
        else:
            self._spare.append(segment)

    def _forward(self) -> None:
        """Write down again what began long ago and is all that a segment is kept for."""
        for segment in self._filled[: max(0, len(self._filled) - MAX_PINNED)]:
            begun = [(key, one[1]) for key, one in self._open.items() if one[0] is segment]
            few = sum(len(payload) for _, payload in begun) <= self._size // 4
            if few and len(begun) == segment.unsettled and not self.scarce:
                for request_id, payload in begun:
                    self.begin(request_id, payload)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Nobody else makes or takes a journal below `home` meanwhile."""
    fd = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def try_lock(place: Path) -> int | None:
    """Take the journal in `place`; None where its program lives, or another replays it."""
    fd = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    _held.add(fd)
    return fd


def unlock(fd: int) -> None:
    _held.discard(fd)
    os.close(fd)


def forget(place: Path) -> None:
    """Delete a journal that holds nothing that matters."""
    with contextlib.suppress(OSError):
        for path in [*place.glob(f"*{SUFFIX}"), place / LOCK]:
            path.unlink()
        place.rmdir()
