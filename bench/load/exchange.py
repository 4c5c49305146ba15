"""A request under way on a connection, as the load generator keeps it."""

from __future__ import annotations

import socket
from array import array
from itertools import accumulate
from time import perf_counter

import httptools

from bench.load.outcome import Outcome, Request


class Exchange:
    """A request on its way, and what came back so far: the protocol of its parser.

    `reads` holds the time of each read and the number of parts there were after it.
    """

    __slots__ = (
        "complete", "keeps_alive", "misbehaves", "number", "on_body", "parser", "parts", "reads",
        "request", "sent_at", "stalls",
    )  # fmt: skip

    def __init__(self, number: int, request: Request) -> None:
        self.number = number
        self.request = request
        self.parts: list[bytes] = []
        self.on_body = self.parts.append  # the parser calls it without a Python frame in between
        self.reads: list[tuple[float, int]] = []
        self.complete = False
        self.keeps_alive = False
        self.stalls = request.stall_s > 0
        self.misbehaves = self.stalls or request.hang_up_after is not None
        self.parser = httptools.HttpResponseParser(self)
        self.sent_at = perf_counter()

    def on_message_complete(self) -> None:
        self.complete = True
        # Afterwards the parser has forgotten what the headers said.
        self.keeps_alive = self.parser.should_keep_alive()

    def events(self) -> int:
        return b"".join(self.parts).count(b"\n\n")

    def outcome(self, error: str | None) -> Outcome:
        ends = list(accumulate(map(len, self.parts), initial=0))
        reads = {ends[count]: at for at, count in reversed(self.reads) if count}
        return Outcome(
            request=self.request,
            status=self.parser.get_status_code(),
            body=b"".join(self.parts),
            sent_at=self.sent_at,
            read_at=array("d", reversed(reads.values())),
            read_to=array("q", reversed(reads)),
            error=error,
        )


class Connection:
    """A socket, its exchange, and what of the request is still to be sent.

    `used` once it has carried a whole exchange: the server may have closed it since.
    """

    __slots__ = ("exchange", "socket", "unsent", "used")

    def __init__(self, opened: socket.socket, exchange: Exchange) -> None:
        self.socket = opened
        self.exchange = exchange
        self.unsent = b""
        self.used = False
