"""A load generator that is not the bottleneck: one thread, epoll, nothing decoded while it runs.

While requests run it receives, stamps the time once for all sockets that were ready together, and
keeps the bytes. Everything that costs time is asked of the outcomes afterwards.
"""

from __future__ import annotations

import gc
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from time import perf_counter, process_time
from urllib.parse import urlsplit

import httptools

from bench.errors import BenchError
from bench.load.exchange import Connection, Exchange
from bench.load.outcome import Outcome, Request
from bench.load.urls import key_of, without_key

# Few enough that the last socket of a batch is read well within a millisecond of its time stamp.
_BATCH = 128
_READ_BYTES = 65536
_TICK_S = 0.5
_CONNECT_S = 30.0
_BUSY = 0.9
_NOTHING: tuple[int, None] = (-1, None)


@dataclass(frozen=True, slots=True)
class Result:
    """Outcomes in the order of the requests; those that `stop` kept from being sent are left out.

    `wall_s` runs from just before the first request to the end of the last answer, `cpu_s` is what
    this process used in it.
    """

    outcomes: list[Outcome]
    wall_s: float
    cpu_s: float

    @property
    def cpu_share(self) -> float:
        """The share of the time in which this process kept a core busy."""
        return self.cpu_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def was_bottleneck(self) -> bool:
        """Whether this process may be what limited the run."""
        return self.cpu_share > _BUSY


def run(
    url: str,
    path: str,
    requests: Sequence[Request],
    *,
    concurrency: int,
    on_progress: Callable[[int], None] = lambda _finished: None,
    stop: Callable[[], bool] = lambda: False,
    silence_s: float = 120.0,
) -> Result:
    """POST every request to `url` + `path`, `concurrency` of them in flight, each answer making
    room for the next.

    All connections are open before the first request. `on_progress` and `stop` are called about
    twice a second; once `stop` says so nothing more is begun. When nothing at all arrives for
    `silence_s`, what is in flight fails. Raises BenchError: the server can't be connected to.
    """
    load = _Load(_Server(url, path), requests, min(concurrency, len(requests)), silence_s)
    collects = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would be a pause in every latency
    try:
        return load.run(on_progress, stop)
    finally:
        load.close()
        if collects:
            gc.enable()


class _Server:
    """Where to connect, and how a request is written; `url` may have a key before its host."""

    def __init__(self, url: str, path: str) -> None:
        parts = urlsplit(url)
        self._url = without_key(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BenchError(f"{self._url}: expected http://host:port")
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        except OSError as error:
            raise BenchError(f"{self._url}: can't be reached: {error.strerror}") from error
        self._family, self._address = found[0][0], found[0][4]
        key, host = key_of(url), urlsplit(self._url).netloc
        bearer = f"authorization: Bearer {key}\r\n" if key else ""
        self._head = (
            f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\nhost: {host}\r\n{bearer}"
            "content-type: application/json\r\naccept-encoding: identity\r\ncontent-length: "
        ).encode()

    def message(self, body: bytes) -> bytes:
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    def connected(self) -> socket.socket:
        """A connection that is open. Raises BenchError."""
        opened = self._socket()
        try:
            opened.settimeout(_CONNECT_S)
            opened.connect(self._address)
        except OSError as error:
            opened.close()
            raise BenchError(f"{self._url}: can't be reached: {error}") from error
        opened.setblocking(False)
        return opened

    def connecting(self) -> socket.socket:
        """A connection that is being opened: it can be written to once it is, or has failed."""
        opened = self._socket()
        opened.setblocking(False)
        opened.connect_ex(self._address)
        return opened

    def _socket(self) -> socket.socket:
        made = socket.socket(self._family, socket.SOCK_STREAM)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


class _Load:
    def __init__(
        self, server: _Server, requests: Sequence[Request], concurrency: int, silence_s: float
    ) -> None:
        self._server = server
        self._requests: Iterator[tuple[int, Request]] = iter(enumerate(requests))
        self._concurrency = concurrency
        self._silence_s = silence_s
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}  # those with a request in flight
        self._stalled: list[tuple[float, int]] = []
        self._finished: list[tuple[Exchange, str | None]] = []

    def close(self) -> None:
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()

    def run(self, on_progress: Callable[[int], None], stop: Callable[[], bool]) -> Result:
        opened = [self._server.connected() for _ in range(self._concurrency)]
        start, cpu = perf_counter(), process_time()
        for one, (number, request) in zip(opened, self._requests, strict=False):
            self._open(Exchange(number, request), one)
        heard = ticked = start
        while self._connections:
            ready = self._epoll.poll(self._patience(), _BATCH)
            now = perf_counter()
            for number, events in ready:
                self._advance(self._connections[number], events, now)
            if ready or self._stalled:
                heard = now
                self._resume(now)
            elif now - heard > self._silence_s:
                self._give_up()
            if now - ticked > _TICK_S:
                ticked = now
                on_progress(len(self._finished))
                if stop():
                    self._requests = iter(())
        wall, cpu = perf_counter() - start, process_time() - cpu
        on_progress(len(self._finished))
        self._finished.sort(key=lambda one: one[0].number)
        return Result([exchange.outcome(error) for exchange, error in self._finished], wall, cpu)

    def _open(self, exchange: Exchange, opened: socket.socket) -> None:
        connection = Connection(opened, exchange)
        self._connections[opened.fileno()] = connection
        self._epoll.register(opened, select.EPOLLIN)
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        connection.unsent = self._server.message(connection.exchange.request.body)
        self._flush(connection)
        if connection.unsent:
            self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, connection: Connection) -> None:
        # Where it can't be sent yet, or ever, an event of the socket will say which.
        with suppress(OSError):
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]

    def _advance(self, connection: Connection, events: int, now: float) -> None:
        """Send and receive what can be."""
        if connection.unsent and events & select.EPOLLOUT and not events & select.EPOLLERR:
            self._flush(connection)
            if not connection.unsent:
                self._epoll.modify(connection.socket, select.EPOLLIN)
        if events == select.EPOLLOUT:
            return
        exchange = connection.exchange
        try:
            received = connection.socket.recv(_READ_BYTES)
            if not received:
                raise ConnectionError("closed before the answer was whole")
            exchange.parser.feed_data(received)
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError) as error:
            self._lost(connection, error)
            return
        exchange.reads.append((now, len(exchange.parts)))
        if exchange.complete:
            self._completed(connection)
        elif exchange.misbehaves:
            self._misbehave(connection, now)

    def _completed(self, connection: Connection) -> None:
        exchange = connection.exchange
        self._finished.append((exchange, None))
        if connection.unsent or not exchange.keeps_alive:
            self._close(connection)
            self._go_on()
            return
        number, request = next(self._requests, _NOTHING)
        if request is None:
            self._close(connection)
            return
        connection.used = True
        connection.exchange = Exchange(number, request)
        self._send(connection)

    def _lost(self, connection: Connection, error: Exception) -> None:
        exchange = connection.exchange
        self._close(connection)
        if connection.used and not exchange.reads:
            # The server had closed the connection before it saw this request.
            self._open(exchange, self._server.connecting())
            return
        self._finished.append((exchange, f"{type(error).__name__}: {error}"))
        self._go_on()

    def _go_on(self) -> None:
        """Send the next request, if there is one, on a connection of its own."""
        number, request = next(self._requests, _NOTHING)
        if request is not None:
            self._open(Exchange(number, request), self._server.connecting())

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _misbehave(self, connection: Connection, now: float) -> None:
        """Hang up or stall, if it is time for it."""
        exchange = connection.exchange
        request, events = exchange.request, exchange.events()
        if request.hang_up_after is not None and events >= request.hang_up_after:
            self._finished.append((exchange, None))
            self._close(connection)
            self._go_on()
        elif exchange.stalls and events:
            exchange.stalls = False
            self._epoll.unregister(connection.socket)
            heappush(self._stalled, (now + request.stall_s, connection.socket.fileno()))

    def _resume(self, now: float) -> None:
        while self._stalled and self._stalled[0][0] <= now:
            _, number = heappop(self._stalled)
            self._epoll.register(number, select.EPOLLIN)

    def _patience(self) -> float:
        """How long to wait for the next event, in seconds."""
        if not self._stalled:
            return _TICK_S
        return min(_TICK_S, max(0.0, self._stalled[0][0] - perf_counter()))

    def _give_up(self) -> None:
        for connection in list(self._connections.values()):
            self._finished.append(
                (connection.exchange, f"nothing came from the server for {self._silence_s:g} s")
            )
            self._close(connection)
