"""Health, readiness, metrics, overload, draining."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import aiohttp

from engine.base import EngineStartError, LoadedModel
from engine.config import EngineConfig
from gateway.app import start_engine
from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.test_hangups import LONG, request_bytes, running


async def status_of(gateway: LiveGateway, path: str) -> tuple[int, Any]:
    async with gateway.http.get(gateway.url + path) as answer:
        return answer.status, await answer.json()


async def test_while_loading_it_is_alive_but_not_ready_and_answers_503(
    start_gateway: StartGateway,
) -> None:
    loading = asyncio.Event()

    async def never(*_: Any) -> Any:
        await loading.wait()

    gateway = await start_gateway(wait_ready=False, start=never)
    assert await status_of(gateway, "/healthz") == (200, {"status": "alive"})
    assert await status_of(gateway, "/readyz") == (503, {"status": "loading"})
    status, answer = await gateway.chat()
    assert status == 503
    assert answer["error"]["code"] == "model_loading"


async def test_an_engine_that_cannot_start_ends_the_program_with_exit_code_1(
    start_gateway: StartGateway,
) -> None:
    async def fail(*_: Any) -> Any:
        raise EngineStartError("no such device")

    gateway = await start_gateway(wait_ready=False, start=fail)
    assert await gateway.task == 1


async def test_ready_means_ready(gateway: LiveGateway) -> None:
    assert await status_of(gateway, "/readyz") == (200, {"status": "ready"})


async def test_an_engine_that_makes_no_progress_is_not_ready(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        **{"engine.simulated.stall_after_tokens": 3, "health.stall_s": 0.05}
    )
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes(LONG))
    await running(gateway, 1)
    async with asyncio.timeout(5):
        while (await status_of(gateway, "/readyz"))[1]["status"] != "stalled":
            await asyncio.sleep(0.02)
    assert (await status_of(gateway, "/healthz"))[0] == 200
    writer.transport.abort()
    await gateway.services.admission.idle()


DYING = {"engine.simulated.die_after_tokens": 5, "health.restart_pause_s": 0.01}


async def test_a_dead_engine_ends_the_program_with_exit_code_3_where_it_is_not_replaced(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**DYING, **{"health.restarts": 0})
    assert (await gateway.chat(max_tokens=20, ignore_eos=True))[0] == 503
    async with asyncio.timeout(10):
        assert await gateway.task == 3


async def test_an_engine_that_dies_again_and_again_ends_the_program_with_exit_code_3(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **DYING, **{"health.restarts": 2, "engine.simulated.die_again": True}
    )

    async def ask() -> None:
        while True:
            await gateway.chat(max_tokens=20, ignore_eos=True)

    asking = asyncio.create_task(ask())
    async with asyncio.timeout(10):
        assert await gateway.task == 3
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
        await asking


async def test_a_dead_engine_is_replaced_and_the_program_goes_on(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**DYING)
    status, answer = await gateway.chat(max_tokens=20, ignore_eos=True)
    assert (status, answer["usage"]["completion_tokens"]) == (200, 20)
    assert await status_of(gateway, "/readyz") == (200, {"status": "ready"})


async def test_while_its_engine_is_started_again_it_is_alive_but_not_ready_and_answers_503(
    start_gateway: StartGateway,
) -> None:
    allowed = asyncio.Event()
    allowed.set()

    async def start(*args: Any) -> LoadedModel:
        await allowed.wait()
        return await start_engine(*args)

    gateway = await start_gateway(start=start, **DYING)
    allowed.clear()
    await gateway.engine.close()
    assert await status_of(gateway, "/readyz") == (503, {"status": "restarting"})
    assert await status_of(gateway, "/healthz") == (200, {"status": "alive"})
    status, answer = await gateway.chat()
    assert (status, answer["error"]["code"]) == (503, "engine_restarting")
    allowed.set()
    async with asyncio.timeout(5):
        await gateway.services.deployments.default.replica.available()
    assert (await gateway.chat(max_tokens=3))[0] == 200


async def test_a_shutdown_during_a_restart_ends_at_once(start_gateway: StartGateway) -> None:
    async def start(config: EngineConfig, *args: Any) -> LoadedModel:
        if config.simulated.die_after_tokens is None:
            await asyncio.Event().wait()
        return await start_engine(config, *args)

    gateway = await start_gateway(start=start, **DYING, **{"server.drain_grace_s": 60})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "stream": True}))
    await reader.readuntil(b"data: ")
    async with asyncio.timeout(5):
        while (await status_of(gateway, "/readyz"))[1]["status"] != "restarting":
            await asyncio.sleep(0.005)
        gateway.serving.stop()
        rest = await reader.read()
        assert await gateway.task == 0
    assert b'"error"' in rest
    assert b"[DONE]" not in rest
    writer.close()


async def test_metrics_count_requests_tokens_and_times(gateway: LiveGateway) -> None:
    await gateway.chat(max_tokens=5, ignore_eos=True)
    await gateway.chat(max_tokens=0)
    async with gateway.http.get(gateway.url + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    assert "gateway_generation_tokens_total 5.0" in lines
    assert 'gateway_request_success_total{finished_reason="length"} 1.0' in lines
    assert "gateway_time_to_first_token_seconds_count 1.0" in lines
    assert "gateway_requests_running 0.0" in lines
    assert 'gateway_http_requests_total{route="/v1/chat/completions",status="400"} 1.0' in lines


async def test_the_api_document_has_every_schema_it_refers_to(gateway: LiveGateway) -> None:
    _, document = await status_of(gateway, "/openapi.json")
    schemas = document["components"]["schemas"]
    references = re.findall(r"#/components/schemas/(\w+)", json.dumps(document))
    assert {"ChatCompletionRequest", "CompletionRequest"} <= set(references)
    assert set(references) <= set(schemas)


async def test_an_upload_under_way_at_a_shutdown_is_a_503(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes(LONG)[:-5])
    while gateway.connections == 0:
        await asyncio.sleep(0.005)
    await status_of(gateway, "/healthz")
    gateway.serving.stop()
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"code":"server_draining"' in answer
    assert await gateway.task == 0
    writer.close()


async def test_over_the_limit_is_a_429_with_retry_after(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"admission.max_requests": 1, "engine.simulated.step_ms": 50})
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes(LONG))
    await running(gateway, 1)
    body = json.dumps(LONG).encode()
    headers = {"content-type": "application/json"}
    async with gateway.http.post(
        gateway.url + "/v1/chat/completions", data=body, headers=headers
    ) as answer:
        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert int(answer.headers["retry-after-ms"]) >= 1000
        assert (await answer.json())["error"]["type"] == "rate_limit_error"
    writer.transport.abort()
    await gateway.idle()


async def test_a_drain_refuses_new_work_and_lets_streams_finish(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 20})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "stream": True, "max_tokens": 20}))
    await reader.readuntil(b"data: ")
    gateway.serving.stop()
    async with asyncio.timeout(5):
        while (await status_of(gateway, "/readyz"))[1]["status"] != "draining":
            await asyncio.sleep(0.005)
    status, answer = await gateway.chat()
    assert status == 503
    assert answer["error"]["code"] == "server_draining"
    assert (await reader.read()).rstrip().endswith(b"data: [DONE]\n\n\r\n0")
    assert await gateway.task == 0
    writer.close()


async def test_when_the_grace_period_is_over_streams_end_with_an_error_event(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 50, "server.drain_grace_s": 0.05})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "stream": True}))
    await reader.readuntil(b"data: ")
    gateway.serving.stop()
    rest = await reader.read()
    assert b'"code":"server_draining"' in rest
    assert b"[DONE]" not in rest
    assert await gateway.task == 0
    writer.close()
