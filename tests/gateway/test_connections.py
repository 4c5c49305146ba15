"""Connections that misbehave below HTTP's semantics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from gateway import connection
from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.test_hangups import LONG, request_bytes, running


async def exchange(gateway: LiveGateway, sent: bytes) -> tuple[int, dict[str, object]]:
    """Send raw bytes, read until the server closes; returns status and JSON body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(sent)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 5000,
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
    ],
    ids=["one header", "an unfinished header", "url", "many headers"],
)
async def test_headers_over_the_limit_are_a_431(start_gateway: StartGateway, sent: bytes) -> None:
    gateway = await start_gateway(**{"server.max_header_bytes": 2048})
    status, answer = await exchange(gateway, sent)
    assert status == 431
    assert answer["error"]["code"] == "headers_too_large"  # type: ignore[index]


@pytest.mark.parametrize("sent", [b"GET /healthz HT", b"GET / HTTP/1.1\r\nhost: x\r\n"])
async def test_headers_that_never_end_are_a_408(start_gateway: StartGateway, sent: bytes) -> None:
    gateway = await start_gateway(**{"server.header_timeout_s": 0.05})
    status, answer = await exchange(gateway, sent)
    assert status == 408
    assert answer["error"]["code"] == "request_timeout"  # type: ignore[index]


async def test_a_connection_that_says_nothing_is_closed_without_a_word(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"server.header_timeout_s": 0.05})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx",
    ],
    ids=["a line end after the answer", "a body nobody reads", "refused before its body ends"],
)
async def test_no_byte_keeps_a_connection_open_for_ever(
    start_gateway: StartGateway, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.1)
    gateway = await start_gateway(**{"server.header_timeout_s": 0.1, "server.keep_alive_s": 0.6})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(sent)
    assert (await reader.readuntil(b"\r\n")).startswith((b"HTTP/1.1 200", b"HTTP/1.1 415"))
    async with asyncio.timeout(5):
        await reader.read()
        while gateway.connections:
            await asyncio.sleep(0.01)
    writer.close()


async def test_a_refused_upload_still_gets_its_answer(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"server.max_body_bytes": 2048})

    async def megabytes() -> AsyncIterator[bytes]:
        for _ in range(128):
            yield b"x" * 65536

    headers = {"content-type": "application/json"}
    url = gateway.url + "/v1/chat/completions"
    async with gateway.http.post(url, data=megabytes(), headers=headers) as answer:
        assert answer.status == 413


async def test_a_body_behind_an_upgrade_offer_is_read(gateway: LiveGateway) -> None:
    body = b'{"prompt": "hi"}'
    status, answer = await exchange(
        gateway,
        b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body),
    )
    assert status == 200
    assert answer["count"]


async def test_garbage_behind_a_request_writes_nothing_into_its_answer(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 20})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "stream": True}))
    await reader.readuntil(b"data: ")
    writer.write(b"\x00garbage\r\n\r\n")
    assert b"HTTP/1.1 400" not in await reader.read()
    await gateway.idle()
    writer.close()


async def test_a_hang_up_with_a_pipelined_request_behind_it_aborts_the_first(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 50})
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes(LONG) + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    await running(gateway, 1)
    writer.close()
    async with asyncio.timeout(1):
        await gateway.idle()


async def test_a_body_that_never_ends_is_a_408(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"server.body_timeout_s": 0.05})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    status, answer = await exchange(gateway, head + b"content-length: 100\r\n\r\n{")
    assert status == 408
    assert answer["error"]["code"] == "request_timeout"  # type: ignore[index]


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET http:// HTTP/9\r\n\r\n", b"\x16\x03\x01"]
)
async def test_what_is_no_http_is_a_400_with_an_error_object(
    gateway: LiveGateway, sent: bytes
) -> None:
    status, answer = await exchange(gateway, sent)
    assert status == 400
    assert answer["error"]["code"] == "invalid_http"  # type: ignore[index]


async def test_connections_over_the_limit_are_refused_and_the_others_served(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"server.max_connections": 2})
    held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
    status, answer = await exchange(gateway, b"")
    assert status == 503
    assert answer["error"]["type"] == "server_error"  # type: ignore[index]
    reader, writer = held[0]
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    for _, each in held:
        each.close()


async def test_a_kept_alive_connection_serves_many_requests(gateway: LiveGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(3):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readexactly(len(b'{"status":"alive"}'))
    writer.close()


async def test_a_client_that_asks_before_it_sends_its_body_is_told_to_go_on(
    gateway: LiveGateway,
) -> None:
    head, body = request_bytes({**LONG, "max_tokens": 3}).split(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + b"\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_whole_when_the_next_request_has_already_begun(
    gateway: LiveGateway, stream: bool
) -> None:
    body = {**LONG, "max_tokens": 30, "stream": stream}
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    second = request_bytes({**LONG, "max_tokens": 1})
    writer.write(request_bytes(body) + second[:-9])
    end = b"0\r\n\r\n" if stream else b"}}}"
    first = await reader.readuntil(end)
    assert first.startswith(b"HTTP/1.1 200")
    assert b"[DONE]" in first if stream else b'"completion_tokens":30' in first
    writer.write(second[-9:])
    assert (await reader.readuntil(b"}}}")).startswith(b"HTTP/1.1 200")
    writer.close()
