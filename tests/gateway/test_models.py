"""Several models behind one address: names, aliases, what serves what, and what is said of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError

from engine.base import EngineStartError, LoadedModel
from engine.config import EngineConfig
from gateway.app import start_engine
from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.several import chat_model, embedder, simulated

TWO = [
    chat_model("first", aliases=["gpt-4o", "org/first"], owned_by="us"),
    {"name": "second", "engine": simulated(simulated={"text": "Second."})},
    embedder(),
]
HI: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def two(start_gateway: StartGateway) -> LiveGateway:
    return await start_gateway(models=TWO)


async def get(gateway: LiveGateway, path: str) -> tuple[int, Any]:
    async with gateway.http.get(gateway.url + path) as answer:
        return answer.status, await answer.json()


async def test_each_model_answers_with_its_own_name_also_by_an_alias(two: LiveGateway) -> None:
    for asked, name in [("first", "first"), ("gpt-4o", "first"), ("second", "second")]:
        answer = await two.openai.chat.completions.create(model=asked, messages=HI)
        assert answer.model == name
        assert (answer.choices[0].message.content == "Second.") == (name == "second")
        legacy = await two.openai.completions.create(model=asked, prompt="Hi", max_tokens=1)
        assert legacy.model == name


async def test_a_stream_tells_the_models_own_name_too(two: LiveGateway) -> None:
    stream = await two.openai.chat.completions.create(model="gpt-4o", messages=HI, stream=True)
    assert {chunk.model async for chunk in stream} == {"first"}


async def test_the_list_has_each_model_once_and_aliases_are_found_by_name(two: LiveGateway) -> None:
    listed = [model async for model in two.openai.models.list()]
    assert [model.id for model in listed] == ["first", "second", "embedder"]
    assert [model.owned_by for model in listed] == ["us", "gateway", "gateway"]
    for name in ("gpt-4o", "org/first"):
        assert await two.openai.models.retrieve(name) == listed[0]


async def test_a_model_has_the_four_fields_of_openai_and_no_other(two: LiveGateway) -> None:
    _, model = await get(two, "/v1/models/second")
    assert set(model) == {"id", "object", "created", "owned_by"}
    assert model["object"] == "model"


async def test_an_unknown_model_is_a_404_that_names_the_known_ones(two: LiveGateway) -> None:
    with pytest.raises(NotFoundError) as error:
        await two.openai.chat.completions.create(model="third", messages=HI)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    assert "`first`, `second`, `embedder`" in error.value.message
    with pytest.raises(NotFoundError):
        await two.openai.models.retrieve("third")
    with pytest.raises(NotFoundError):
        await two.openai.embeddings.create(model="third", input="a")


async def test_a_chat_with_an_embedder_is_a_400_that_names_its_endpoint(two: LiveGateway) -> None:
    with pytest.raises(BadRequestError, match="/v1/embeddings") as error:
        await two.openai.chat.completions.create(model="embedder", messages=HI)
    assert error.value.param == "model"
    with pytest.raises(BadRequestError, match="/v1/embeddings"):
        await two.openai.completions.create(model="embedder", prompt="a")


async def test_tokenizing_takes_the_named_model_or_the_first(two: LiveGateway) -> None:
    for model in ("second", "embedder", "gpt-4o", None):
        status, answer = await two.post("/tokenize", {"model": model, "prompt": "abc"})
        assert (status, answer["count"]) == (200, 4)
    status, answer = await two.post("/tokenize", {"model": "embedder", "messages": HI})
    assert (status, answer["error"]["param"]) == (400, "model")


async def test_readiness_and_version_tell_of_every_model(two: LiveGateway) -> None:
    states = dict.fromkeys(("first", "second", "embedder"), "ready")
    assert await get(two, "/readyz") == (200, {"status": "ready", "models": states})
    _, version = await get(two, "/version")
    assert set(version["models"]) == set(states)
    assert version["engine"] == version["models"]["first"]["engine"]


async def test_a_dead_model_is_named_and_the_others_go_on(start_gateway: StartGateway) -> None:
    dying = {"name": "dying", "engine": simulated(simulated={"die_after_tokens": 1})}
    gateway = await start_gateway(
        models=[chat_model("first"), dying],
        **{"health.restarts": 0, "health.exit_when_dead": False},
    )
    assert (await gateway.chat(model="dying"))[0] == 503
    status, answer = await get(gateway, "/readyz")
    assert (status, answer["models"]) == (503, {"first": "ready", "dying": "dead"})
    assert (await get(gateway, "/healthz"))[0] == 503
    assert (await gateway.chat(model="first"))[0] == 200


async def test_the_engines_gauges_are_told_apart_by_model(two: LiveGateway) -> None:
    async with two.http.get(two.url + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    for name in ("first", "second", "embedder"):
        assert f'gateway_engine_sequences_running{{model_name="{name}"}} 0.0' in lines


class Starts:
    """Starts engines one by one, as a test allows."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.allowed = asyncio.Semaphore(0)

    async def __call__(self, config: EngineConfig, _report: Any, name: str) -> LoadedModel:
        self.names.append(name)
        await self.allowed.acquire()
        return await start_engine(config)


async def test_a_model_that_is_loaded_answers_while_the_next_one_loads(
    start_gateway: StartGateway,
) -> None:
    starts = Starts()
    gateway = await start_gateway(wait_ready=False, start=starts, models=TWO[:2])
    status, answer = await gateway.chat(model="first")
    assert (status, answer["error"]["code"]) == (503, "model_loading")
    starts.allowed.release()
    async with asyncio.timeout(5):
        while len(starts.names) < 2:
            await asyncio.sleep(0.005)
    assert (await gateway.chat(model="first"))[0] == 200
    assert (await gateway.chat(model="second"))[0] == 503
    status, ready = await get(gateway, "/readyz")
    assert (status, ready["status"]) == (503, "loading")
    assert ready["models"] == {"first": "ready", "second": "loading"}
    starts.allowed.release()
    await gateway.serving.ready()
    assert starts.names == ["first", "second"]


async def test_an_engine_that_cant_start_ends_the_program_and_is_named(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []

    async def start(config: EngineConfig, _report: Any, name: str) -> LoadedModel:
        if name == "second":
            raise EngineStartError("no such thing")
        engine = await start_engine(config)
        close = engine.close

        async def closing() -> None:
            closed.append(name)
            await close()

        engine.close = closing  # type: ignore[method-assign]
        return engine

    gateway = await start_gateway(wait_ready=False, start=start, models=TWO)
    assert await gateway.task == 1
    assert closed == ["first"]
    assert "the engine of second could not start: no such thing" in messages(caplog.messages)


def messages(lines: Sequence[str]) -> str:
    return "\n".join(lines)
