from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from bench import load
from bench.errors import BenchError
from bench.fake import Script
from bench.load import Expected, Outcome, Request, Result
from bench.servers.server import free_port
from tests.bench.conftest import StartFake

PATH = "/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
Answering = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def body(max_tokens: int = 4, *, stream: bool = True) -> bytes:
    messages = [{"role": "user", "content": "say it"}]
    settings = {"max_tokens": max_tokens, "stream": stream, "messages": messages}
    return json.dumps({"model": "fake-model", **settings}).encode()


def words(count: int) -> Expected:
    return Expected((" word" * count,), count, finish_reason=None)


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM = (
    HEAD + b"\r\n" + chunk(event("one")) + chunk(event("two") + b"data: [DONE]\n\n") + chunk(b"")
)


async def run(url: str, requests: Sequence[Request], concurrency: int = 1, **more: Any) -> Result:
    return await asyncio.to_thread(
        load.run, url, PATH, requests, concurrency=concurrency, silence_s=30, **more
    )


def faults(result: Result) -> list[str | None]:
    return [outcome.fault() for outcome in result.outcomes]


def text(outcome: Outcome) -> str:
    return outcome.answer().texts[0]


@asynccontextmanager
async def answering(answer: Answering) -> AsyncIterator[str]:
    """A server that calls `answer` with the number of each request, from 1; gives its URL."""
    seen = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                seen += 1
                await answer(seen, reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_key_before_the_host_is_sent_as_such() -> None:
    heads: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(STREAM)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await run(f"http://a-key@127.0.0.1:{port}", [Request(body(2), words(2))])
    assert b"\r\nauthorization: Bearer a-key\r\n" in heads[0]
    assert f"\r\nhost: 127.0.0.1:{port}\r\n".encode() in heads[0]


async def test_every_request_is_answered_verified_and_in_order(start_fake: StartFake) -> None:
    three = asyncio.Barrier(3)

    async def gate() -> None:
        await three.wait()

    fake, url = await start_fake(Script(gate=gate))
    lengths = [1, 5, 3, 8, 2, 6]

    result = await run(url, [Request(body(n), words(n)) for n in lengths], concurrency=3)

    assert faults(result) == [None] * 6
    assert [one.answer().completion_tokens for one in result.outcomes] == lengths
    assert [one.events for one in result.outcomes] == [n + 2 for n in lengths]
    assert fake.seen.peak == 3
    assert result.cpu_s > 0
    assert result.was_bottleneck == (result.cpu_share > 0.9)


async def test_times_are_in_order_and_gaps_join_reads(start_fake: StartFake) -> None:
    _, url = await start_fake(Script(token_delay_s=0.001))

    (outcome,) = (await run(url, [Request(body(8), words(8))])).outcomes

    timing = outcome.timing()
    assert timing is not None
    assert 0.001 <= timing.first_s <= timing.last_s
    assert sum(timing.gaps_s) <= timing.last_s - timing.first_s + 1e-6
    assert list(outcome.read_at) == sorted(outcome.read_at)
    assert outcome.read_to[-1] == len(outcome.body)


async def test_answers_that_are_not_streamed_are_read_too(start_fake: StartFake) -> None:
    _, url = await start_fake(Script())

    result = await run(url, [Request(body(3, stream=False), Expected((" word" * 3,), 3, None))] * 4)

    assert faults(result) == [None] * 4


async def test_a_stream_may_come_byte_by_byte() -> None:
    async def answer(_number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in STREAM:
            writer.write(bytes([byte]))
            await writer.drain()

    async with answering(answer) as url:
        result = await run(url, [Request(b"{}")] * 2)

    assert faults(result) == [None, None]
    assert [text(one) for one in result.outcomes] == ["onetwo"] * 2


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@pytest.mark.parametrize("answered", [STREAM, WHOLE], ids=["streamed", "whole"])
async def test_a_connection_carries_one_request_after_another(answered: bytes) -> None:
    writers: set[asyncio.StreamWriter] = set()

    async def answer(_number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        writer.write(answered)

    async with answering(answer) as url:
        result = await run(url, [Request(b"{}")] * 9, concurrency=3)

    assert [one.status for one in result.outcomes] == [200] * 9
    assert len(writers) == 3


@pytest.mark.parametrize("announced", [True, False])
async def test_a_connection_the_server_closes_is_opened_again(announced: bool) -> None:
    stream = STREAM.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)

    async def answer(_number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(stream if announced else STREAM)
        writer.close()

    async with answering(answer) as url:
        result = await run(url, [Request(b"{}")] * 6, concurrency=2)

    assert faults(result) == [None] * 6


async def test_a_stream_that_is_cut_is_a_fault_and_the_rest_goes_on() -> None:
    async def answer(number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM[:-30] if number == 2 else STREAM)
        if number == 2:
            writer.close()

    async with answering(answer) as url:
        result = await run(url, [Request(b"{}")] * 4)

    assert [fault is None for fault in faults(result)] == [True, False, True, True]
    assert "closed before the answer was whole" in str(result.outcomes[1].fault())
    assert text(result.outcomes[1]) == "one"


async def test_what_is_no_http_is_a_fault() -> None:
    async def answer(_number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-hello\r\n\r\n")

    async with answering(answer) as url:
        result = await run(url, [Request(b"{}")])

    assert "HttpParser" in str(result.outcomes[0].fault())
    assert result.outcomes[0].timing() is None


async def test_a_refusal_is_a_fault_with_its_status_and_text(start_fake: StartFake) -> None:
    _, url = await start_fake(Script(fault=lambda number: "500" if number == 1 else None))

    result = await run(url, [Request(body(2), words(2))] * 2)

    first, second = faults(result)
    assert first is not None
    assert first.startswith("HTTP 500: ")
    assert "scripted" in first
    assert second is None


async def test_wrong_token_counts_and_texts_are_faults(start_fake: StartFake) -> None:
    _, url = await start_fake(
        Script(fault=lambda number: {1: "wrong_completion", 2: "no_done"}.get(number))
    )

    result = await run(url, [Request(body(2), words(n)) for n in (2, 2, 3)])

    assert faults(result)[0] == "usage says 1 completion tokens, expected 2"
    assert faults(result)[1] == "the stream ended without [DONE]"
    assert "differs from character 10" in str(faults(result)[2])


async def test_a_client_that_hangs_up_keeps_what_it_got() -> None:
    gone = asyncio.Event()

    async def answer(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if number == 2:
            writer.write(STREAM)
            return
        writer.write(HEAD + b"\r\n" + chunk(event("one")) + chunk(event("t")))
        assert await reader.read() == b""
        gone.set()

    expected = Expected(("onetwo",), 2)
    async with answering(answer) as url:
        result = await run(url, [Request(b"{}", expected, hang_up_after=2), Request(b"{}")])
        await gone.wait()

    assert faults(result) == [None, None]
    assert [text(one) for one in result.outcomes] == ["onet", "onetwo"]


async def test_a_client_that_stalls_reads_nothing_for_so_long(start_fake: StartFake) -> None:
    first_read = asyncio.Event()

    async def answer(_number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n" + chunk(event("one")))
        await writer.drain()
        await first_read.wait()
        writer.write(STREAM.partition(chunk(event("one")))[2])

    def ticked(_finished: int) -> None:
        loop.call_soon_threadsafe(first_read.set)

    loop = asyncio.get_running_loop()
    async with answering(answer) as url:
        result = await run(url, [Request(b"{}", stall_s=1.5)], on_progress=ticked)

    (outcome,) = result.outcomes
    assert outcome.fault() is None
    assert outcome.read_at[1] - outcome.read_at[0] >= 1.5


async def test_hundreds_of_requests_are_in_flight_at_once() -> None:
    waiting, everybody = 0, asyncio.Event()

    async def answer(_number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 400:
            everybody.set()
        await everybody.wait()
        writer.write(STREAM)

    async with answering(answer) as url:
        result = await run(url, [Request(b"{}")] * 800, concurrency=400)

    assert faults(result) == [None] * 800


async def test_a_body_larger_than_the_sockets_buffer_is_sent_whole() -> None:
    async def answer(_number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)

    async with answering(answer) as url:
        result = await run(url, [Request(b" " * 20_000_000)] * 2)

    assert faults(result) == [None, None]


async def test_once_it_is_stopped_nothing_more_is_begun() -> None:
    stopped = threading.Event()

    async def answer(_number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(stopped.wait)
        writer.write(STREAM)

    def stop() -> bool:
        stopped.set()
        return True

    async with answering(answer) as url:
        result = await run(url, [Request(b"{}")] * 9, concurrency=2, stop=stop)

    assert faults(result) == [None, None]


async def test_a_server_that_says_nothing_any_more_is_given_up(start_fake: StartFake) -> None:
    _, url = await start_fake(Script(fault=lambda _number: "hang"))

    result = await asyncio.to_thread(
        load.run, url, PATH, [Request(body())] * 2, concurrency=2, silence_s=0.1
    )

    assert faults(result) == ["nothing came from the server for 0.1 s"] * 2


async def test_progress_ends_with_all_requests(start_fake: StartFake) -> None:
    _, url = await start_fake(Script())
    told: list[int] = []

    await run(url, [Request(body())] * 5, on_progress=told.append)

    assert told[-1] == 5


@pytest.mark.parametrize("url", ["https://a-key@127.0.0.1:1", "nothing", "http://"])
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(BenchError, match=r"^(?!.*a-key).*expected http://"):
        load.run(url, PATH, [Request(b"{}")], concurrency=1)


def test_a_server_that_is_not_there_is_named_without_its_key_and_nothing_is_left_changed() -> None:
    port = free_port()
    with pytest.raises(BenchError, match=f"^http://127.0.0.1:{port}: can't be reached"):
        load.run(f"http://a-key@127.0.0.1:{port}", PATH, [Request(b"{}")], concurrency=2)

    assert gc.isenabled()


def test_no_requests_are_no_outcomes() -> None:
    result = load.run("http://127.0.0.1:1", PATH, [], concurrency=3)

    assert result.outcomes == []
