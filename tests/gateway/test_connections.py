"""Connections that misbehave below HTTP's semantics."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

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


async def test_however_short_it_is_kept_a_connection_takes_a_second_request(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"server.keep_alive_s": 0.4})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await reader.readuntil(b"HTTP/1.1 200")
        await asyncio.sleep(0.2)
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


@pytest.mark.parametrize("behind", [b"\x00garbage\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n"])
async def test_what_is_wrong_behind_a_request_leaves_its_answer_whole(
    start_gateway: StartGateway, behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.1)
    gateway = await start_gateway(**{"engine.simulated.step_ms": 20})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "stream": True, "max_tokens": 10}))
    await reader.readuntil(b"data: ")
    writer.write(behind)
    async with asyncio.timeout(5):
        rest = await reader.read()
    assert b"HTTP/1.1 400" not in rest
    assert b"data: [DONE]" in rest
    writer.close()


@pytest.mark.parametrize("end", ["half closed", "a bad chunk"])
async def test_who_takes_nothing_of_an_answer_cut_short_is_cut_off(
    start_gateway: StartGateway, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.1)
    gateway = await start_gateway(**{"server.write_timeout_s": 0.3, "server.body_timeout_s": 60})
    client = deaf(gateway)
    async with asyncio.timeout(5):
        await fill(gateway, client)
        if end == "half closed":
            client.sendall(request_bytes({**LONG, "stream": True}))
            client.shutdown(socket.SHUT_WR)
        else:
            client.sendall(b"POST /tokenize HTTP/1.1\r\nhost: x\r\n")
            client.sendall(b"content-type: application/json\r\n")
            client.sendall(b"transfer-encoding: chunked\r\n\r\nxyz\r\n")
        while gateway.connections:
            await asyncio.sleep(0.01)
    client.close()


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


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/rerank"])
async def test_the_bodys_time_is_over_with_the_requests(gateway: LiveGateway, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    late = "x-request-timeout: 0.1\r\ncontent-length: 100\r\n\r\n{"
    status, answer = await exchange(gateway, (head + late).encode())
    assert status == 408
    assert "before its answer" in answer["error"]["message"]  # type: ignore[index]


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


async def test_what_is_pipelined_beyond_a_bound_is_not_taken(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
    async with asyncio.timeout(5):
        answers = (await reader.read()).count(b"HTTP/1.1 200")
    assert answers == 1 + connection.MAX_PIPELINED
    writer.close()


async def test_a_hang_up_behind_a_large_pipelined_body_aborts_the_first(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 50})
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes(LONG))
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n" + b"x" * 500_000)
    await running(gateway, 1)
    await writer.drain()
    writer.close()
    async with asyncio.timeout(1):
        await gateway.idle()


def deaf(gateway: LiveGateway) -> socket.socket:
    """A client that reads nothing, and for which the kernel keeps little."""
    gateway.serving._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", gateway.port))
    return client


def left(gateway: LiveGateway) -> int:
    """Bytes that are to be written still."""
    return sum(one.transport.get_write_buffer_size() for one in protocols(gateway))


async def fill(gateway: LiveGateway, client: socket.socket) -> None:
    """Ask for too much for the kernel to hold, and too little for the server to be held up."""
    while not left(gateway):
        client.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(0.01)
    assert left(gateway) < 65_536


async def test_who_takes_nothing_of_what_is_left_of_an_answer_is_cut_off(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"server.write_timeout_s": 0.3, "server.keep_alive_s": 60})
    client = deaf(gateway)
    async with asyncio.timeout(5):
        await fill(gateway, client)
        while gateway.connections:
            await asyncio.sleep(0.01)
    client.close()


def protocols(gateway: LiveGateway) -> list[Any]:
    """The server's side of its connections."""
    return list(gateway.serving._server.server_state.connections)


OFFER = (
    b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"connection: Upgrade\r\nUpgrade: h2c\r\ncontent-length: 16\r\n\r\n"
)


async def test_every_body_behind_an_upgrade_offer_is_read(gateway: LiveGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(3):
        writer.write(OFFER + b'{"prompt": "hi"}')
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"}")
    writer.close()


async def test_a_body_is_never_taken_for_a_request(gateway: LiveGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    # The offer isn't seen in one piece.
    start, rest = OFFER.split(b"grade: h2c")
    writer.write(start)
    async with asyncio.timeout(5):
        while not any(one._header_bytes for one in protocols(gateway)):
            await asyncio.sleep(0.01)
        writer.write(b"grade: h2c" + rest)
        while any(one._header_bytes for one in protocols(gateway)):
            await asyncio.sleep(0.01)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).count(b"HTTP/1.1 ") == 1
    writer.close()


async def test_an_error_before_the_bodys_end_is_told_also_where_the_connection_closes(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"server.max_body_bytes": 2048})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: 8000000\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413")
    for _ in range(100):  # a connection that was closed would be reset
        writer.write(b"x" * 65_536)
        await writer.drain()
    assert b"request_too_large" in await reader.read()
    writer.close()


@pytest.mark.parametrize("version", [b"1.0", b"2.0"])
async def test_a_stream_without_chunks_ends_with_its_connection(
    gateway: LiveGateway, version: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    sent = request_bytes({**LONG, "stream": True, "max_tokens": 5})
    sent = sent.replace(b"HTTP/1.1", b"HTTP/" + version)
    writer.write(sent.replace(b"\r\n", b"\r\nconnection: keep-alive\r\n", 1))
    async with asyncio.timeout(5):
        assert b"data: [DONE]" in await reader.read()
    writer.close()


async def test_the_connections_own_errors_speak_the_language_of_their_path(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"server.max_header_bytes": 2048})
    sent = b"POST /v1/messages HTTP/1.1\r\nx: " + b"a" * 5000 + b"\r\n\r\n"
    status, answer = await exchange(gateway, sent)
    assert (status, answer["type"]) == (431, "error")


async def test_a_shutdown_answers_what_was_pipelined(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 20})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    asked = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    writer.write(request_bytes({**LONG, "max_tokens": 10}) + asked * 5)
    await running(gateway, 1)
    gateway.serving.stop()
    async with asyncio.timeout(4):  # uvicorn would wait for 5 s
        answers = (await reader.read()).count(b"HTTP/1.1 ")
        assert await gateway.task == 0
    assert answers == 6
    writer.close()
