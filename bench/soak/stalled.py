"""A client that stops reading in the middle of its answer, so that the server can't write."""

from __future__ import annotations

import asyncio
import socket
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from bench.load import Outcome, Request
from bench.load.exchange import Exchange

# The kernel would take megabytes for a client on the same machine that reads nothing. How many
# follows from the client's buffer and, for the server's own, from the size of a segment: with
# these it was 120 kB.
_BUFFER: Final = 4096
_SEGMENT: Final = 1400


async def read_late(base_url: str, path: str, request: Request, timeout_s: float) -> Outcome:
    """Send the request on a connection of its own, read until its answer has begun, read nothing
    for `request.stall_s`, then the rest, all that within `timeout_s`."""
    exchange = Exchange(0, request)
    try:
        async with asyncio.timeout(timeout_s):
            await _converse(base_url, path, exchange)
    except TimeoutError:
        return exchange.outcome(f"not whole after {timeout_s:g} s")
    except OSError as error:
        return exchange.outcome(f"{type(error).__name__}: {error}")
    return exchange.outcome(None)


async def _converse(base_url: str, path: str, exchange: Exchange) -> None:
    parts = urlsplit(base_url)
    opened = await _connected(parts.hostname or "", parts.port or 80)
    reader, writer = await asyncio.open_connection(sock=opened, limit=_BUFFER)
    try:
        body = exchange.request.body
        writer.write(
            f"POST {parts.path}{path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await _receive(reader, exchange)
        while not exchange.parts and not exchange.complete:
            await _receive(reader, exchange)
        await asyncio.sleep(exchange.request.stall_s)
        while not exchange.complete:
            await _receive(reader, exchange)
    finally:
        writer.transport.abort()


async def _connected(host: str, port: int) -> socket.socket:
    opened = socket.socket()
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
    try:
        await asyncio.get_running_loop().sock_connect(opened, (host, port))
    except BaseException:
        opened.close()
        raise
    return opened


async def _receive(reader: asyncio.StreamReader, exchange: Exchange) -> None:
    received = await reader.read(_BUFFER)
    if not received:
        raise ConnectionError("closed before the answer was whole")
    exchange.parser.feed_data(received)
    exchange.reads.append((perf_counter(), len(exchange.parts)))
