"""`POST /v1/embeddings` over HTTP, with a simulated embedder."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from array import array
from typing import Any

import pytest
from openai import BadRequestError
from sqlalchemy import select

from gateway.store.tenant_tables import ledger
from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.several import chat_model, embedder, simulated
from tests.gateway.test_hangups import request_bytes

PATH = "/v1/embeddings"


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> LiveGateway:
    return await start_gateway(models=[embedder(), chat_model("chat")])


async def embed(gateway: LiveGateway, **fields: Any) -> tuple[int, Any]:
    return await gateway.post(PATH, {"model": "embedder", "input": "Hi", **fields})


async def test_the_sdk_gets_a_vector_and_exact_usage_for_each_text(gateway: LiveGateway) -> None:
    answer = await gateway.openai.embeddings.create(model="embedder", input=["abc", "de"])
    assert [item.index for item in answer.data] == [0, 1]
    assert all(len(item.embedding) == 64 for item in answer.data)
    assert answer.model == "embedder"
    # A control token and one for each byte.
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)


async def test_numbers_and_base64_say_the_same(gateway: LiveGateway) -> None:
    _, numbers = await embed(gateway, encoding_format="float")
    _, encoded = await embed(gateway, encoding_format="base64")
    packed = base64.b64decode(encoded["data"][0]["embedding"])
    assert array("f", packed).tolist() == numbers["data"][0]["embedding"]
    assert math.hypot(*numbers["data"][0]["embedding"]) == pytest.approx(1.0, abs=1e-6)
    assert (await embed(gateway))[1] == numbers


async def test_token_ids_are_embedded_as_the_text_they_say(gateway: LiveGateway) -> None:
    _, text = await embed(gateway, input="ab")
    tokens = [256, *b"ab"]
    assert (await embed(gateway, input=tokens))[1] == text
    _, several = await embed(gateway, input=[tokens, [*b"x"]])
    assert several["data"][0] == text["data"][0]
    assert several["usage"]["total_tokens"] == 4


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ""}, "input", "string_below_min_length"),
        ({"input": []}, "input", "empty_array"),
        ({"input": ["a", ""]}, "input[1]", "string_below_min_length"),
        ({"input": [[]]}, "input[0]", "empty_array"),
        ({"input": ["a"] * 2049}, "input", "array_above_max_length"),
        ({"input": None}, "input", None),
        ({"input": [1.5]}, "input[0]", "invalid_type"),
        ({"input": [-1]}, "input", "invalid_value"),
        ({"input": [264]}, "input", "invalid_value"),
        ({"input": "a" * 600}, "input", "context_length_exceeded"),
        ({"input": "\\ud800"}, None, None),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"dimensions": 8}, "dimensions", "invalid_value"),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
        ({"model": None}, "model", "invalid_type"),
        ({"model": "chat"}, "model", "model_not_supported"),
        ({"user": 5}, "user", "invalid_type"),
    ],
)
async def test_what_is_wrong_with_a_request_is_a_400_that_names_it(
    gateway: LiveGateway, fields: dict[str, Any], param: str | None, code: str | None
) -> None:
    body = json.dumps({"model": "embedder", "input": "Hi", **fields}).replace("\\\\ud", "\\ud")
    status, answer = await gateway.post(PATH, body.encode())
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert param is None or answer["error"]["param"] == param
    assert code is None or answer["error"]["code"] == code
    await gateway.idle()


async def test_a_chat_model_makes_no_embeddings_and_says_what_it_does(gateway: LiveGateway) -> None:
    with pytest.raises(BadRequestError, match="/v1/chat/completions"):
        await gateway.openai.embeddings.create(model="chat", input="a")


async def test_all_inputs_together_have_a_limit_of_tokens(gateway: LiveGateway) -> None:
    status, answer = await embed(gateway, input=["a" * 500] * 600)
    assert (status, answer["error"]["code"]) == (400, "max_tokens_per_request")
    assert "300000" in answer["error"]["message"]


async def test_an_input_may_fill_the_whole_context(gateway: LiveGateway) -> None:
    assert (await embed(gateway, input="a" * 511))[0] == 200
    assert (await embed(gateway, input="a" * 512))[0] == 400


async def test_a_matryoshka_model_gives_shorter_vectors_of_length_one(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[embedder(matryoshka=True)])
    _, answer = await embed(gateway, input="hello", dimensions=8)
    vector = answer["data"][0]["embedding"]
    assert len(vector) == 8
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-6)
    assert (await embed(gateway, dimensions=65))[0] == 400


async def test_who_hangs_up_leaves_nothing_behind(start_gateway: StartGateway) -> None:
    slow = embedder(simulated={"step_ms": 60_000})
    gateway = await start_gateway(models=[slow])
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({"model": "embedder", "input": "Hi"}, PATH))
    async with asyncio.timeout(5):
        while not gateway.model("embedder").stats().running:
            await asyncio.sleep(0.005)
    writer.transport.abort()
    async with asyncio.timeout(5):
        await gateway.model("embedder").drain()
        await gateway.services.admission.idle()
    async with gateway.http.get(gateway.url + "/metrics") as answer:
        assert 'gateway_request_aborted_total{cause="disconnect"} 1.0' in await answer.text()


async def test_one_whose_engine_stands_still_is_ended(start_gateway: StartGateway) -> None:
    stuck = embedder(simulated={"step_ms": 10_000_000})
    gateway = await start_gateway(models=[stuck], **{"admission.stall_timeout_s": 0.4})
    status, answer = await embed(gateway)
    assert (status, answer["error"]["code"]) == (503, "engine_stalled")
    await gateway.idle()
    await gateway.model("embedder").drain()
    await gateway.services.ledger.flush()
    (row,) = await gateway.services.store.database.read(
        lambda connection: connection.execute(select(ledger)).all()
    )
    assert (row.outcome, row.status, row.code) == ("failed", 503, "engine_stalled")


async def test_a_shutdown_interrupts_it_when_the_grace_period_is_over(
    start_gateway: StartGateway,
) -> None:
    slow = {
        "name": "embedder",
        "engine": simulated(runner="pooling", simulated={"step_ms": 60_000}),
    }
    gateway = await start_gateway(models=[slow], **{"server.drain_grace_s": 0.05})
    asked = asyncio.create_task(embed(gateway))
    async with asyncio.timeout(5):
        while not gateway.model("embedder").stats().running:
            await asyncio.sleep(0.005)
    gateway.serving.stop()
    status, answer = await asked
    assert (status, answer["error"]["code"]) == (503, "server_draining")
    assert await gateway.task == 0
