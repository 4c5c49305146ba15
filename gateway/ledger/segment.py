"""One file of a journal: a fixed size on disk, filled from its beginning, and then filled anew.

::

    header   magic (8 bytes), nonce (8), CRC-32 of both (4)
    frame    kind (1), 0 (1), length of the payload (2), CRC-32 (4), payload     … and again

A frame's checksum begins with the nonce's, so what an earlier filling has left behind isn't taken
for a frame. The first thing that is none is the end: a write that a crash cut short, too.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

MAGIC = b"gwledg01"
BEGIN, END, PROBE = 1, 2, 3
MAX_PAYLOAD = 0xFFFF

_HEADER = struct.Struct("<8s8sI")
_FRAME = struct.Struct("<BxHI")
FRAME_BYTES = _FRAME.size
HEADER_BYTES = _HEADER.size


class UnreadableError(Exception):
    """No segment as this version writes them."""


class Segment:
    """A new file of `size` bytes, all of which the disk has promised. Raises OSError, leaving
    nothing, where it doesn't.

    `unsettled` counts what is in it and still matters; its owner keeps it.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.unsettled = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, size)
            self.restart()
        except OSError:
            self.remove()
            raise

    @property
    def room(self) -> int:
        """Bytes, frames included, that can still be written."""
        return self.size - self._end

    def restart(self) -> None:
        """Forget all that is in it. Raises OSError."""
        nonce = os.urandom(8)
        _write(self._fd, _header(nonce), 0)
        self._seed, self._end = crc32(nonce), HEADER_BYTES

    def append(self, kind: int, payload: bytes) -> None:
        """Returns once this survives the program's death. Raises OSError, having written nothing
        that counts."""
        frame = _FRAME.pack(kind, len(payload), crc32(payload, self._seed ^ kind)) + payload
        _write(self._fd, frame, self._end)
        self._end += len(frame)

    def close(self) -> None:
        os.close(self._fd)

    def remove(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


def require_readable(path: Path) -> None:
    """Raises UnreadableError; OSError."""
    with path.open("rb") as file:
        _seed_of(file.read(HEADER_BYTES))


def frames(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of what was written to a segment, in order. Raises UnreadableError."""
    seed, at = _seed_of(content), HEADER_BYTES
    while seed is not None and at + FRAME_BYTES <= len(content):
        kind, length, checksum = _FRAME.unpack_from(content, at)
        at += FRAME_BYTES
        payload = content[at : at + length]
        if not kind or len(payload) < length or crc32(payload, seed ^ kind) != checksum:
            return
        yield kind, payload
        at += length


def _header(nonce: bytes) -> bytes:
    return _HEADER.pack(MAGIC, nonce, crc32(MAGIC + nonce))


def _seed_of(content: bytes) -> int | None:
    """None where a crash cut the header short: nothing was written behind it that matters. Raises
    UnreadableError."""
    header = content[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
    magic, nonce, checksum = _HEADER.unpack(header)
    if not MAGIC.startswith(magic.rstrip(b"\0")):
        raise UnreadableError
    sound = magic == MAGIC and crc32(magic + nonce) == checksum
    return crc32(nonce) if sound else None


def _write(fd: int, content: bytes, at: int) -> None:
    if os.pwrite(fd, content, at) != len(content):
        raise OSError("the disk took only a part")
