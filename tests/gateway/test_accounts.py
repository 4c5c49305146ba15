"""What a request took is what its key is charged, what the ledger says and what the engine did."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select

from gateway.store.tenant_tables import ledger
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.test_hangups import LONG, hang_up_mid_stream, request_bytes


async def rows(gateway: LiveGateway) -> Sequence[Any]:
    """The ledger, once everything that has ended is in it."""
    await gateway.services.ledger.flush()
    found: Sequence[Any] = await gateway.services.store.database.read(
        lambda connection: connection.execute(select(ledger).order_by(ledger.c.seq)).all()
    )
    return found


async def test_a_whole_answer_is_one_row_with_what_its_usage_says(gateway: LiveGateway) -> None:
    _, answer = await gateway.chat(max_tokens=7)
    (row,) = await rows(gateway)
    assert (row.outcome, row.status, row.finish) == ("completed", 200, "length")
    assert (row.model, row.endpoint, row.streamed) == (MODEL, "/v1/chat/completions", False)
    assert row.prompt_tokens == answer["usage"]["prompt_tokens"]
    assert row.completion_tokens == answer["usage"]["completion_tokens"] == 7
    assert 0 < row.ttft_s <= row.total_s


async def test_a_stream_is_one_row_even_if_its_client_goes(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 20})
    await hang_up_mid_stream(gateway)
    await gateway.idle()
    (row,) = await rows(gateway)
    assert (row.outcome, row.status, row.streamed) == ("cancelled", 499, True)
    assert row.completion_tokens == gateway.engine.stats().generation_tokens_total > 0


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"temperature": 9}, 400),
        ({"model": "another"}, 404),
        ({"messages": [{"role": "user", "content": "long " * 600}]}, 400),
        ({"max_tokens": 100_000}, 400),
    ],
)
async def test_a_refused_request_is_one_row_without_tokens(
    gateway: LiveGateway, fields: dict[str, Any], status: int
) -> None:
    got, answer = await gateway.chat(**fields)
    (row,) = await rows(gateway)
    assert (got, row.outcome, row.status) == (status, "rejected", status)
    assert row.code == answer["error"]["code"]
    assert (row.prompt_tokens, row.completion_tokens, row.cost) == (0, 0, 0)


async def test_a_background_response_is_one_row_of_its_own(gateway: LiveGateway) -> None:
    _, made = await gateway.post(
        "/v1/responses",
        {"model": MODEL, "input": "Hi", "background": True, "max_output_tokens": 16},
    )
    path = f"{gateway.url}/v1/responses/{made['id']}"
    answer = made
    while answer["status"] in ("queued", "in_progress"):
        async with gateway.http.get(path) as got:
            answer = await got.json()
    await gateway.idle()
    (row,) = await rows(gateway)
    assert (row.outcome, row.endpoint) == ("completed", "/v1/responses")
    assert row.completion_tokens == answer["usage"]["output_tokens"]


async def test_the_price_of_a_request_is_its_tokens_times_the_models(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"price.prompt": "0.25", "price.completion": "1.5"})
    await gateway.chat(max_tokens=10)
    (row,) = await rows(gateway)
    # Per million tokens, in parts of a billion: a quarter is 250 for each token.
    assert row.cost == row.prompt_tokens * 250 + 10 * 1500


async def test_hang_ups_stalls_and_refusals_leave_sums_equal_to_the_engines(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **{"engine.max_num_seqs": 16, "admission.max_queued": 64, "engine.simulated.step_ms": 2}
    )
    chance = random.Random(7)

    async def one(number: int) -> None:
        if number % 5 == 0:
            await gateway.chat(max_tokens=chance.randrange(1, 40))
        elif number % 5 == 1:
            await asyncio.wait_for(streamed(gateway, chance.randrange(1, 40)), 20)
        elif number % 5 == 2:
            await gateway.chat(temperature=9)
        else:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(request_bytes({**LONG, "stream": number % 2 == 0}))
            await asyncio.sleep(chance.random() * 0.05)  # at any moment of its life
            writer.transport.abort()

    await asyncio.gather(*(one(number) for number in range(200)))
    await gateway.idle()
    found, stats = await rows(gateway), gateway.engine.stats()
    assert len({row.request_id for row in found}) == len(found)
    assert sum(row.completion_tokens for row in found) == stats.generation_tokens_total
    assert sum(row.prompt_tokens for row in found) == stats.prompt_tokens_total


async def streamed(gateway: LiveGateway, tokens: int) -> bytes:
    body = {**LONG, "stream": True, "max_tokens": tokens}
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
        return await answer.read()


async def test_an_answer_that_takes_longer_than_its_client_allows_ends_with_408(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 50})
    status, answer = await gateway.post(
        "/v1/chat/completions", LONG, headers={"x-request-timeout": "0.3"}
    )
    assert (status, answer["error"]["code"]) == (408, "request_timeout")
    await gateway.idle()
    (row,) = await rows(gateway)
    assert row.status == 408
    assert row.completion_tokens == gateway.engine.stats().generation_tokens_total


async def test_a_stream_that_takes_too_long_ends_with_an_error_and_no_end_mark(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 50, "admission.timeout_s": 0.3})
    got = await streamed(gateway, 400)
    assert b'"code":"request_timeout"' in got
    assert b"[DONE]" not in got
    await gateway.idle()


@pytest.mark.parametrize("given", ["soon", "-1", "0", "nan", "1e9", ""])
async def test_a_timeout_that_is_none_is_refused(gateway: LiveGateway, given: str) -> None:
    status, answer = await gateway.post(
        "/v1/chat/completions", LONG, headers={"x-request-timeout": given}
    )
    assert (status, answer["error"]["code"]) == (400, "invalid_header")


async def test_a_request_whose_engine_stands_still_is_ended(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        **{"engine.simulated.stall_after_tokens": 5, "admission.stall_timeout_s": 0.4}
    )
    status, answer = await gateway.chat(max_tokens=100)
    assert (status, answer["error"]["code"]) == (503, "engine_stalled")
    await gateway.idle()


async def test_who_must_wait_is_served_when_there_is_room(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.max_num_seqs": 2, "admission.margin": 0})
    answers = await asyncio.gather(*(gateway.chat(max_tokens=5) for _ in range(20)))
    assert [status for status, _ in answers] == [200] * 20
    found = await rows(gateway)
    assert len(found) == 20
    assert sum(row.queue_s > 0 for row in found) >= 10


async def test_more_than_may_wait_are_refused_at_once_and_told_when_to_return(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **{
            "engine.max_num_seqs": 1,
            "admission.margin": 0,
            "admission.max_queued": 2,
            "engine.simulated.step_ms": 20,
        }
    )
    answers = await asyncio.gather(*(whole(gateway) for _ in range(10)))
    refused = [headers for status, headers in answers if status == 429]
    assert len(refused) == 7
    assert all(int(headers["retry-after-ms"]) > 0 for headers in refused)
    found = await rows(gateway)
    assert sorted(row.outcome for row in found) == ["completed"] * 3 + ["rejected"] * 7


async def whole(gateway: LiveGateway) -> tuple[int, dict[str, str]]:
    body = {**LONG, "max_tokens": 20}
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
        await answer.read()
        return answer.status, dict(answer.headers)
