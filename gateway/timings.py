"""Where the time of one answer goes, for its client to read.

Source: W3C Server Timing, "The Server-Timing Header Field".
"""

from __future__ import annotations

import time
from typing import Final, Literal, TypeAlias

Stage: TypeAlias = Literal[
    "auth",
    "parse",
    "grammar",
    "render",
    "tokenize",
    "queue",
    "prefill",
    "decode",
    "detokenize",
    "frame",
    "send",
    "store",
]

_NAME: Final = b"server-timing"


class Timings:
    """A clock that always runs for one stage, so that the stages add up to the whole.

    `begun` is `time.perf_counter()`'s. The first stage is `auth`.
    """

    __slots__ = ("_begun", "_seconds", "_since", "_stage")

    def __init__(self, begun: float) -> None:
        self._stage: Stage = "auth"
        self._begun = self._since = begun
        self._seconds: dict[str, float] = {}

    def enter(self, stage: Stage) -> Stage:
        """From now on time is spent on `stage`; returns what it was spent on until now."""
        now, before = time.perf_counter(), self._stage
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
        self._stage, self._since = stage, now
        return before

    def header(self) -> tuple[bytes, bytes]:
        """The header that tells all so far."""
        return _NAME, self._metrics()

    def comment(self) -> bytes:
        """The same within an event stream, as a comment, which clients leave out."""
        return b": %b %b\n\n" % (_NAME, self._metrics())

    def _metrics(self) -> bytes:
        """Each stage in the order of its beginning, then `total`; in milliseconds."""
        self.enter(self._stage)
        told = {**self._seconds, "total": self._since - self._begun}
        return b", ".join(
            b"%b;dur=%.3f" % (name.encode(), 1000 * seconds) for name, seconds in told.items()
        )


def enter(timings: Timings | None, stage: Stage) -> None:
    """From now on time is spent on `stage`; nothing where no time is kept."""
    if timings is not None:
        timings.enter(stage)
