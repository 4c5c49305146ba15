"""Ids that nobody can guess, for every request: only for the event loop's thread.

Their randomness is drawn from the kernel for a hundred of them at a time: asking for each, by way
of `secrets`, costs as much as tokenizing a short prompt.
"""

from __future__ import annotations

import secrets
import time
from typing import Final

_DRAWN_BYTES: Final = 2048


class _Randomness:
    def __init__(self) -> None:
        self._drawn = ""
        self._used = 0

    def digits(self, size: int) -> str:
        """`size` random bytes as hexadecimal digits, given to nobody else."""
        begin, end = self._used, self._used + 2 * size
        if end > len(self._drawn):
            self._drawn = secrets.token_hex(_DRAWN_BYTES)
            begin, end = 0, 2 * size
        self._used = end
        return self._drawn[begin:end]


_digits: Final = _Randomness().digits


def new_request_id() -> str:
    """An id for `x-request-id` that no other request has. It begins with the time, so that the
    ledger's index grows at its end."""
    return f"req_{time.time_ns() // 1_000_000:012x}{_digits(10)}"


def new_id(prefix: str) -> str:
    """An id of an answer: `chatcmpl-…`, or `msg_…` where the prefix has a joint of its own."""
    joint = "" if prefix.endswith("_") else "-"
    return f"{prefix}{joint}{_digits(16)}"
