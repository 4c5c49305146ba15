"""An engine dies under its requests: those that haven't begun wait, those that have go on exactly
where they were or end in an error, and nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import select

from engine.base import LoadedModel
from engine.config import EngineConfig
from engine.simulated import SimulatedEngine
from gateway.store.tenant_tables import ledger
from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.test_hangups import LONG

EVERY_ENGINE = {"engine.simulated.step_ms": 2, "health.restart_pause_s": 0.01}


class Mortal:
    """Starts simulated engines, of which the first dies after so many tokens."""

    def __init__(self, tokens: int, deaths: int = 1) -> None:
        self.tokens = tokens
        self.deaths = deaths
        self.started: list[SimulatedEngine] = []

    async def __call__(
        self, config: EngineConfig, report: Any = None, name: str | None = None
    ) -> LoadedModel:
        dies = self.tokens if len(self.started) < self.deaths else None
        script = config.simulated.model_copy(update={"die_after_tokens": dies})
        self.started.append(SimulatedEngine(config.model_copy(update={"simulated": script})))
        return self.started[-1]

    @property
    def generated(self) -> int:
        return sum(engine.stats().generation_tokens_total for engine in self.started)

    @property
    def read(self) -> int:
        return sum(engine.stats().prompt_tokens_total for engine in self.started)


async def stream(gateway: LiveGateway, **fields: Any) -> tuple[str, str | None, bool]:
    """The text of a stream, the code of the error it ended with, and whether it had its end."""
    body = {**LONG, "stream": True, "max_tokens": 60, **fields}
    text, error, ended = "", None, False
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
        async for line in answer.content:
            if line.startswith(b"data: [DONE]"):
                ended = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    error = event["error"]["code"]
                elif event["choices"]:
                    text += event["choices"][0]["delta"].get("content", "")
    return text, error, ended


async def uncut(start_gateway: StartGateway) -> str:
    gateway = await start_gateway(**EVERY_ENGINE)
    text, _, _ = await stream(gateway)
    return text


async def test_streams_go_on_exactly_where_they_were(start_gateway: StartGateway) -> None:
    mortal = Mortal(100)
    gateway = await start_gateway(start=mortal, **EVERY_ENGINE)
    answers = await asyncio.gather(*(stream(gateway) for _ in range(5)))
    whole = await uncut(start_gateway)
    assert answers == [(whole, None, True)] * 5
    assert len(mortal.started) == 2
    await gateway.idle()
    await gateway.services.ledger.flush()
    found = await gateway.services.store.database.read(
        lambda connection: connection.execute(select(ledger)).all()
    )
    assert [row.completion_tokens for row in found] == [60] * 5
    assert sum(row.completion_tokens for row in found) == mortal.generated
    assert sum(row.prompt_tokens for row in found) == mortal.read


async def test_a_whole_answer_goes_on_too(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(start=Mortal(30), **EVERY_ENGINE)
    status, answer = await gateway.chat(max_tokens=60, ignore_eos=True)
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 60
    assert answer["choices"][0]["message"]["content"] == await uncut(start_gateway)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 3},
        {"presence_penalty": 0.5},
        {"n": 2},
        {"response_format": {"type": "json_object"}, "ignore_eos": False},
    ],
)
async def test_what_can_not_go_on_exactly_ends_in_an_error_without_an_end_mark(
    start_gateway: StartGateway, fields: dict[str, Any]
) -> None:
    gateway = await start_gateway(start=Mortal(30), **EVERY_ENGINE)
    _, error, ended = await stream(gateway, **fields)
    assert (error, ended) == ("engine_dead", False)
    await gateway.services.deployments.default.replica.available()
    assert (await stream(gateway))[2]  # the next engine serves


async def test_requests_that_wait_are_served_by_the_next_engine(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        start=Mortal(30), **EVERY_ENGINE, **{"engine.max_num_seqs": 1, "admission.margin": 0}
    )
    answers = await asyncio.gather(*(gateway.chat(max_tokens=20) for _ in range(10)))
    assert [status for status, _ in answers] == [200] * 10


async def test_a_request_under_which_engines_keep_dying_is_given_up(
    start_gateway: StartGateway,
) -> None:
    mortal = Mortal(0, deaths=3)
    gateway = await start_gateway(start=mortal, **EVERY_ENGINE)
    status, answer = await gateway.chat()
    assert (status, answer["error"]["code"]) == (503, "engine_dead")
    assert len(mortal.started) <= 3
    await gateway.idle()


async def test_with_no_restarts_everybody_is_told_and_the_program_ends(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        start=Mortal(30),
        **EVERY_ENGINE,
        **{"health.restarts": 0, "engine.max_num_seqs": 1, "admission.margin": 0},
    )
    answers = await asyncio.gather(*(gateway.chat(max_tokens=20) for _ in range(4)))
    assert 503 in [status for status, _ in answers]
    assert await gateway.task == 3
    assert gateway.services.admission.inside == 0


async def test_new_requests_are_told_when_to_return_while_the_engine_restarts(
    start_gateway: StartGateway,
) -> None:
    mortal, again = Mortal(5), asyncio.Event()

    async def slowly(config: EngineConfig, report: Any, name: str | None = None) -> LoadedModel:
        if mortal.started:
            await again.wait()
        return await mortal(config)

    gateway = await start_gateway(start=slowly, **EVERY_ENGINE)
    waiting = asyncio.create_task(stream(gateway))
    async with asyncio.timeout(5):
        while gateway.services.deployments.replicas[0].state != "restarting":
            await asyncio.sleep(0.005)
    status, answer = await gateway.chat()
    assert (status, answer["error"]["code"]) == (503, "engine_restarting")
    again.set()
    assert (await waiting)[1:] == (None, True)
