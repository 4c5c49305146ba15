"""`Server-Timing` before a real engine, whose template and tokenizer take their time one after the
other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from gateway.config import load_config
from tests.engines import Engines
from tests.gateway.conftest import MODEL, Lent, LiveGateway, enter_gateway
from tests.gateway.raw import send
from tests.gateway.test_edge_headers import chat
from tests.gateway.test_timings import STREAMED, WHOLE, comments, of, stages

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def timed(engines: Engines) -> AsyncIterator[LiveGateway]:
    engine = await engines.use("tiny")

    async def lend(*_args: Any, **_kwargs: Any) -> Any:
        return Lent(engine)

    overrides = {"model_name": MODEL, "server.port": 0, "state.url": "sqlite://"}
    config = load_config(overrides={**overrides, "server.server_timing": True}, environ={})
    async with AsyncExitStack() as stack:
        yield await enter_gateway(stack, config, start=lend)


async def test_the_template_and_the_tokenizer_are_stages_of_their_own(timed: LiveGateway) -> None:
    told = stages(of(await send(timed, chat())))
    assert set(told) == {*WHOLE, "tokenize"}
    assert told[told.index("render") + 1] == "tokenize"


async def test_so_they_are_of_a_stream(timed: LiveGateway) -> None:
    (comment,) = comments(await send(timed, chat(stream=True)))
    assert set(stages(comment)) == {*STREAMED, "tokenize"}
