"""One request of a load, and what came back for it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise

from bench.load.answer import Answer, Expected, UnreadableAnswerError, decode, difference
from bench.sse import StreamScan

_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Request:
    """One request. The client may read nothing for `stall_s` seconds after the first event, and
    close the connection after `hang_up_after` events; the answer to one that does is to be a
    beginning of what is expected."""

    body: bytes
    expected: Expected | None = None
    stall_s: float = 0.0
    hang_up_after: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from just before the request was sent to the first text and to the last byte (to
    the last byte for both where there was no text), and between reads that carried text."""

    first_s: float
    last_s: float
    gaps_s: array[float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back, without its chunked framing; times by the clock of `perf_counter`.

    `read_at` holds the time of every read that carried a part of the body, and `read_to` where in
    the body it ended. `status` is 0 where no answer began. `error` says why the answer is not
    whole; it is None for a client that hung up, as it got what it wanted.
    """

    request: Request
    status: int
    body: bytes
    sent_at: float
    read_at: array[float]
    read_to: array[int]
    error: str | None

    @property
    def events(self) -> int:
        """Events of a stream, the `[DONE]` included."""
        return self.body.count(b"\n\n")

    def timing(self) -> Timing | None:
        """None where no part of a body came."""
        if not self.read_at:
            return None
        times = self._text_times()
        last = self.read_at[-1]
        return Timing(
            first_s=(times[0] if times else last) - self.sent_at,
            last_s=last - self.sent_at,
            gaps_s=array("d", (later - earlier for earlier, later in pairwise(times))),
        )

    def answer(self) -> Answer:
        """Raises UnreadableAnswerError: there is none, or it is an error."""
        if self.status != 200:
            shown = self.body[:_SHOWN].decode(errors="replace")
            raise UnreadableAnswerError(f"HTTP {self.status}: {shown}")
        return decode(self.body)

    def fault(self) -> str | None:
        """What is wrong with the answer, against what its request expects; None if nothing."""
        if self.error is not None:
            return self.error
        try:
            answer = self.answer()
        except UnreadableAnswerError as error:
            return str(error)
        if self.request.expected is None:
            return None
        left_early = self.request.hang_up_after is not None
        return difference(answer, self.request.expected, partial=left_early)

    def _text_times(self) -> list[float]:
        """The time of each read that carried text of a stream."""
        scan, start = StreamScan(), 0
        for at, end in zip(self.read_at, self.read_to, strict=True):
            scan.feed(self.body[start:end], at)
            start = end
        return list(dict.fromkeys(scan.content_times))
