"""Requests written byte by byte, for what clients won't send and libraries hide."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.gateway.conftest import LiveGateway


@dataclass(frozen=True)
class RawAnswer:
    """One answer as it came over the wire; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI error object that the body is."""
        answer = self.json()
        assert set(answer) == {"error"}, answer
        error: dict[str, Any] = answer["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return error


async def send(gateway: LiveGateway, *pieces: bytes) -> RawAnswer:
    """Write `pieces` and read until the server closes; a `100 Continue` is skipped."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(10):
        got = await reader.read()
    writer.close()
    return parse(got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))


def request(
    method: str,
    path: str,
    *headers: str,
    body: bytes | None = None,
    version: str = "1.1",
    length: int | None = None,
) -> bytes:
    """A request whose connection ends with its answer."""
    lines = [f"{method} {path} HTTP/{version}", "host: x", "connection: close", *headers]
    if body is not None:
        lines += [
            "content-type: application/json",
            f"content-length: {len(body) if length is None else length}",
        ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def parse(got: bytes) -> RawAnswer:
    head, end, body = got.partition(b"\r\n\r\n")
    assert end, got[:200]
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    if headers.get("transfer-encoding") == "chunked":
        body = unchunked(body)
    return RawAnswer(int(first.split()[1]), headers, body)


def unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        whole, body = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return whole
