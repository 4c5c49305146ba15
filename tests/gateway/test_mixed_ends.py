"""Requests that end in every way at once, over engines that die: the books are right."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, StartGateway
from tests.gateway.test_accounts import rows
from tests.gateway.test_engine_deaths import EVERY_ENGINE, Mortal
from tests.gateway.test_hangups import LONG, request_bytes
from tests.gateway.test_limits import ADMINISTRATED, ask, key


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_left_and_nothing_is_miscounted(
    start_gateway: StartGateway, seed: int
) -> None:
    chance = random.Random(seed)
    mortal = Mortal(10**9)
    gateway = await start_gateway(
        start=mortal,
        **EVERY_ENGINE,
        **ADMINISTRATED,
        **{
            "engine.max_num_seqs": 6,
            "admission.margin": 0.5,
            "health.restarts": 100,
            "admission.max_running_per_tenant": 5,
            "engine.max_model_len": 2048,
        },
    )
    keys = [
        await key(gateway, tpm=10_000_000, max_concurrent=60, priority=p)
        for p in ("online", "batch", "online")
    ]
    stop = False

    async def killer() -> None:
        while not stop and len(mortal.started) < 8:
            await asyncio.sleep(chance.random() * 0.3)
            engine = mortal.started[-1]
            if engine.alive:
                engine._die("killed")

    async def one(number: int) -> None:
        await asyncio.sleep(chance.random() * 2)
        who = chance.choice(keys)
        kind = chance.randrange(6)
        body: dict[str, Any] = {
            **LONG,
            "max_tokens": chance.randrange(1, 60),
            "stream": chance.random() < 0.6,
        }
        path = "/v1/chat/completions"
        if kind == 0:
            path = "/v1/completions"
            body = {
                "model": MODEL,
                "prompt": ["a" * chance.randrange(1, 50) for _ in range(chance.randrange(1, 4))],
                "n": chance.randrange(1, 4),
                "max_tokens": chance.randrange(1, 30),
                "ignore_eos": True,
                "stream": body["stream"],
            }
        elif kind == 1:
            path = "/v1/completions"
            body = {"model": MODEL, "prompt": "abc", "echo": True, "max_tokens": 0}
        elif kind == 2:
            path = "/v1/responses"
            body = {
                "model": MODEL,
                "input": "Hi",
                "background": chance.random() < 0.7,
                "max_output_tokens": 20,
            }
        elif kind == 3:
            body |= {"seed": 1}
        elif kind == 4:
            body |= {"n": 2}
        if chance.random() < 0.4:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            raw = request_bytes(body, path)
            raw = raw.replace(
                b"host: x", b"host: x\r\nauthorization: " + who["authorization"].encode()
            )
            writer.write(raw)
            await asyncio.sleep(chance.random() * 0.2)
            writer.transport.abort()
            return
        headers = dict(who)
        if chance.random() < 0.3:
            headers["x-request-timeout"] = str(chance.random() * 0.5 + 0.01)
        async with gateway.http.post(gateway.url + path, json=body, headers=headers) as answer:
            text = await answer.read()
            assert answer.status in (200, 408, 429, 503), (answer.status, text)
            assert "x-ratelimit-limit-tokens" in answer.headers, (answer.status, text)

    killing = asyncio.create_task(killer())
    outcomes = await asyncio.gather(*(one(n) for n in range(400)), return_exceptions=True)
    stop = True
    await killing
    bad = [o for o in outcomes if o is not None]
    assert not bad, bad[:3]
    async with asyncio.timeout(10):
        await gateway.services.admission.idle()
    await gateway.services.deployments.default.replica.available()
    await gateway.idle()
    stats = gateway.services.admission.stats(MODEL)
    assert (stats.queued, stats.queued_tokens, stats.running) == (0, 0, 0)
    found = await rows(gateway)
    assert len({row.request_id for row in found}) == len(found)
    assert sum(row.completion_tokens for row in found) == mortal.generated
    assert sum(row.prompt_tokens for row in found) == mortal.read
    for row in found:
        assert (row.outcome == "completed") == (row.status == 200), row
    for who in keys:  # as many at once as the key may have: none of the others is still there
        answers = await asyncio.gather(*(ask(gateway, who, max_tokens=1) for _ in range(60)))
        assert {status for status, _, _ in answers} == {200}
