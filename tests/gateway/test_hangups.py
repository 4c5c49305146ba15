"""Clients that go away leave nothing behind."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.gateway.conftest import MODEL, LiveGateway, StartGateway

LONG = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 400,
    "ignore_eos": True,
}


def request_bytes(body: object, path: str = "/v1/chat/completions") -> bytes:
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent


async def hang_up_mid_stream(gateway: LiveGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "stream": True}))
    await reader.readuntil(b"data: ")
    writer.transport.abort()


@pytest.fixture
async def slow_gateway(start_gateway: StartGateway) -> LiveGateway:
    """Steps so slow that no answer ends by itself within a test."""
    return await start_gateway(
        **{"engine.simulated.step_ms": 50, "engine.max_num_seqs": 256, "engine.max_model_len": 4096}
    )


async def test_200_hang_ups_mid_stream_leave_no_request_and_no_task(
    slow_gateway: LiveGateway,
) -> None:
    before = asyncio.all_tasks()
    await asyncio.gather(*(hang_up_mid_stream(slow_gateway) for _ in range(200)))
    async with asyncio.timeout(1):
        await slow_gateway.idle()
    stats = slow_gateway.engine.stats()
    assert (stats.running, stats.waiting, stats.kv_cache_usage) == (0, 0, 0.0)
    await settled(before)


async def settled(before: set[asyncio.Task[object]]) -> None:
    """Return once no task is left that wasn't there `before`."""
    async with asyncio.timeout(5):
        while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=0.1)


async def test_a_hang_up_while_waiting_for_a_whole_answer_aborts_it(
    slow_gateway: LiveGateway,
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", slow_gateway.port)
    writer.write(request_bytes(LONG))
    await running(slow_gateway, 1)
    writer.transport.abort()
    async with asyncio.timeout(1):
        await slow_gateway.idle()


async def running(gateway: LiveGateway, count: int) -> None:
    async with asyncio.timeout(5):
        while gateway.engine.stats().running < count:
            await asyncio.sleep(0.005)


async def test_a_hang_up_before_the_first_token_aborts_it(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.prefill_ms_per_token": 10_000})
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "stream": True}))
    async with asyncio.timeout(5):
        while gateway.services.admission.inside == 0:
            await asyncio.sleep(0.005)
    writer.transport.abort()
    async with asyncio.timeout(1):
        await gateway.idle()


async def test_a_hang_up_of_many_choices_and_prompts_aborts_them_all(
    slow_gateway: LiveGateway,
) -> None:
    body = {"model": MODEL, "prompt": ["a", "b", "c"], "n": 4, "max_tokens": 400,
            "ignore_eos": True, "stream": True}  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", slow_gateway.port)
    writer.write(request_bytes(body, "/v1/completions"))
    await reader.readuntil(b"data: ")
    writer.transport.abort()
    async with asyncio.timeout(1):
        await slow_gateway.idle()
    assert slow_gateway.engine.stats().running == 0


async def test_tokens_of_a_call_that_ended_early_are_counted(slow_gateway: LiveGateway) -> None:
    await hang_up_mid_stream(slow_gateway)
    await slow_gateway.idle()
    async with slow_gateway.http.get(slow_gateway.url + "/metrics") as answer:
        text = await answer.text()
    assert 'gateway_request_aborted_total{cause="disconnect"} 1.0' in text
    (line,) = [x for x in text.splitlines() if x.startswith("gateway_generation_tokens_total")]
    assert float(line.split()[1]) >= 1


async def test_a_reader_that_stalls_is_cut_off_and_stops_only_its_own_stream(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **{
            "engine.simulated.step_ms": 0.01,
            "engine.simulated.text": "x" * 4000 + " ",
            "engine.max_model_len": 200_000,
            "server.write_timeout_s": 0.2,
        }
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    writer.write(request_bytes({**LONG, "stream": True, "n": 8, "max_tokens": 20_000}))
    await reader.readuntil(b"data: ")
    status, _ = await gateway.chat(max_tokens=3, ignore_eos=True)
    assert status == 200
    async with asyncio.timeout(10):
        await gateway.services.admission.idle()
    writer.transport.abort()


async def test_a_hang_up_behind_a_large_body_aborts_its_request(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **{"engine.simulated.step_ms": 50, "engine.max_model_len": 400_000}
    )
    content = "x" * 300_000  # more than is read ahead of an application
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "messages": [{"role": "user", "content": content}]}))
    await running(gateway, 1)
    writer.transport.abort()
    async with asyncio.timeout(1):
        await gateway.idle()


async def test_a_hang_up_while_a_schema_is_tried_frees_its_place(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, given_up = asyncio.Event(), asyncio.Event()

    async def for_ever(_structure: object) -> None:
        tried.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    monkeypatch.setattr(gateway.engine, "check_structure", for_ever)
    body = {**LONG, "ignore_eos": False, "response_format": {"type": "json_object"}}
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes(body))
    await tried.wait()
    writer.transport.abort()
    async with asyncio.timeout(5):
        await given_up.wait()
    await gateway.idle()
