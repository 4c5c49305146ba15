"""A live gateway whose real engine is killed and held under its streams: what its clients see, and
whether the ledger has what the engines counted."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
from sqlalchemy import select

from engine import vllm_engine
from engine.base import LoadedModel
from engine.config import EngineConfig
from gateway.config import load_config
from gateway.store.tenant_tables import ledger
from tests.engines import CONFIGS, Engines
from tests.gateway.conftest import MODEL, LiveGateway, enter_gateway

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine]

START_S = 240
STREAMS = 6
TOKENS = 700
_PATIENT = aiohttp.ClientTimeout(total=START_S)
PENALTY = {"presence_penalty": 0.5}


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def mortal(engines: Engines, tmp_path_factory: Any) -> AsyncIterator[LiveGateway]:
    """A gateway with a real engine of its own, in which every death is the first."""
    await engines.stop()

    async def start(config: EngineConfig, _report: Any, name: str) -> LoadedModel:
        return await vllm_engine.start(config, str(engines.path("tiny")), name=name)

    database: Path = tmp_path_factory.mktemp("mortal") / "state.db"
    overrides = {
        "model_name": MODEL,
        "server.port": 0,
        "state.url": f"sqlite:///{database}",
        "health.restart_pause_s": 0.01,
        **{f"engine.{name}": value for name, value in CONFIGS["tiny"].model_dump().items()},
    }
    config = load_config(overrides=overrides, environ={})
    async with AsyncExitStack() as stack:
        gateway = await enter_gateway(stack, config, wait_ready=False, start=start)
        async with asyncio.timeout(START_S):
            await gateway.serving.ready()
        yield gateway


class Stream:
    """A stream and what has come of it so far."""

    def __init__(self, gateway: LiveGateway, number: int, fields: dict[str, Any]) -> None:
        self.text = ""
        self.error: str | None = None
        self.ended = False
        self.begun = asyncio.Event()
        self.exact = not fields
        self._gateway = gateway
        self._body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Tell me story number {number}."}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
            **fields,
        }

    async def read(self) -> None:
        url = f"{self._gateway.url}/v1/chat/completions"
        async with self._gateway.http.post(url, json=self._body, timeout=_PATIENT) as answer:
            async for line in answer.content:
                if not line.startswith(b"data: "):
                    continue
                self.begun.set()
                if line.startswith(b"data: [DONE]"):
                    self.ended = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    self.error = event["error"]["code"]
                elif event["choices"]:
                    self.text += event["choices"][0]["delta"].get("content", "")


def streams(gateway: LiveGateway) -> list[Stream]:
    """The last two can't be continued exactly."""
    return [
        Stream(gateway, number, PENALTY if number >= STREAMS - 2 else {})
        for number in range(STREAMS)
    ]


async def uncut(gateway: LiveGateway) -> list[str]:
    """What they say when nothing happens."""
    found = streams(gateway)
    await asyncio.gather(*(one.read() for one in found))
    assert all(one.ended for one in found)
    return [one.text for one in found]


def core() -> psutil.Process:
    (child,) = multiprocessing.active_children()
    return psutil.Process(child.pid)


async def rows(gateway: LiveGateway) -> Sequence[Any]:
    await gateway.idle()
    await gateway.services.ledger.flush()
    found: Sequence[Any] = await gateway.services.store.database.read(
        lambda connection: connection.execute(select(ledger)).all()
    )
    return found


async def test_killed_engines_cut_no_stream_falsely_and_every_token_is_in_the_ledger(
    mortal: LiveGateway,
) -> None:
    replica = mortal.services.deployments.default.replica
    whole = await uncut(mortal)
    killed: list[psutil.Process] = []
    for _ in range(2):
        found = streams(mortal)
        reading = [asyncio.create_task(one.read()) for one in found]
        await asyncio.gather(*(one.begun.wait() for one in found))
        dying = core()
        killed += [dying, *dying.children(recursive=True)]
        dying.kill()
        async with asyncio.timeout(START_S):
            await asyncio.gather(*reading)
            await replica.available()
        for one, text in zip(found, whole, strict=True):
            if one.exact:
                assert (one.text, one.error, one.ended) == (text, None, True)
            else:
                assert (one.error, one.ended) == ("engine_dead", False)
                assert text.startswith(one.text)
    assert await uncut(mortal) == whole
    assert not any(process.is_running() for process in killed)
    kept = await rows(mortal)
    assert len({row.request_id for row in kept}) == len(kept) == 4 * STREAMS
    assert [row.outcome for row in kept].count("failed") == 2 * 2
    told = sum(row.prompt_tokens for row in kept), sum(row.completion_tokens for row in kept)
    assert told == replica.totals


async def test_a_held_engine_is_not_ready_until_it_goes_on_and_its_streams_go_on(
    mortal: LiveGateway,
) -> None:
    whole = await uncut(mortal)
    found = streams(mortal)
    reading = [asyncio.create_task(one.read()) for one in found]
    await asyncio.gather(*(one.begun.wait() for one in found))
    held = core()
    held.send_signal(signal.SIGSTOP)
    try:
        await status(mortal, 503)
        assert not all(one.ended for one in found)
    finally:
        held.send_signal(signal.SIGCONT)
    await status(mortal, 200)
    await asyncio.gather(*reading)
    assert [(one.text, one.ended) for one in found] == [(text, True) for text in whole]


async def status(gateway: LiveGateway, expected: int) -> None:
    """Return once `/readyz` answers so."""
    async with asyncio.timeout(30):
        while True:
            async with gateway.http.get(gateway.url + "/readyz") as answer:
                if answer.status == expected:
                    return
