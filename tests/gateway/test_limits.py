"""Keys with limits, over a live gateway."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.test_accounts import rows
from tests.gateway.test_hangups import LONG, request_bytes

ADMIN = "a" * 32
ADMINISTRATED: dict[str, Any] = {
    "auth.admin_keys": [{"name": "root", "sha256": hashlib.sha256(ADMIN.encode()).hexdigest()}]
}


async def made(gateway: LiveGateway, kind: str, **fields: Any) -> Any:
    """A new team or key, by an administrator."""
    status, answer = await gateway.post(
        f"/admin/v1/{kind}", fields, headers={"authorization": f"Bearer {ADMIN}"}
    )
    assert status == 200, answer
    return answer


async def key(gateway: LiveGateway, **fields: Any) -> dict[str, str]:
    """The header of a new key."""
    return bearer(await made(gateway, "keys", **fields))


def bearer(key: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {key['value']}"}


async def ask(
    gateway: LiveGateway, headers: dict[str, str], **fields: Any
) -> tuple[int, Any, dict[str, str]]:
    """A chat completion: status, answer, headers."""
    body = {**LONG, "max_tokens": 10, **fields}
    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.http.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(), dict(answer.headers)


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> LiveGateway:
    return await start_gateway(**ADMINISTRATED, **{"engine.max_num_seqs": 64})


async def test_1000_concurrent_requests_are_not_given_a_token_too_many(
    gateway: LiveGateway,
) -> None:
    prompt_tokens = (await gateway.post("/tokenize", {"messages": LONG["messages"]}))[1]["count"]
    each = prompt_tokens + 10
    who = await key(gateway, tpm=25 * each)
    answers = await asyncio.gather(*(ask(gateway, who) for _ in range(1000)))
    found = Counter(status for status, _, _ in answers)
    # What a minute gives may have come back in part meanwhile.
    spent_s = max(row.at + row.total_s for row in await rows(gateway)) - min(
        row.at for row in await rows(gateway)
    )
    assert set(found) == {200, 429}
    assert 25 <= found[200] <= 25 + 25 * spent_s / 60
    refused = next(answer for status, answer, _ in answers if status == 429)["error"]
    assert (refused["code"], refused["type"]) == ("rate_limit_exceeded", "tokens")


async def test_a_hang_up_is_charged_what_was_produced_and_gives_back_the_rest(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**ADMINISTRATED, **{"engine.simulated.step_ms": 20})
    whole = await made(
        gateway, "keys", budgets=[{"unit": "tokens", "amount": 600, "window": "total"}]
    )
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = f"\r\nauthorization: {bearer(whole)['authorization']}\r\ncontent-type".encode()
    writer.write(request_bytes(LONG).replace(b"\r\ncontent-type", head, 1))
    async with asyncio.timeout(5):
        while gateway.engine.stats().generation_tokens_total < 5:
            await asyncio.sleep(0.005)
    assert (await ask(gateway, bearer(whole), max_tokens=250))[0] == 429  # all is reserved
    writer.transport.abort()
    await gateway.idle()
    assert (await ask(gateway, bearer(whole), max_tokens=250))[0] == 200


async def test_a_request_that_names_no_length_fits_into_what_its_key_could_ever_use(
    gateway: LiveGateway,
) -> None:
    who = await key(gateway, tpm=100)
    status, answer, _ = await ask(gateway, who, max_tokens=None)
    assert (status, answer["usage"]["total_tokens"]) == (200, 100)
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_every_answer_tells_what_is_left(gateway: LiveGateway) -> None:
    who = await key(gateway, rpm=60, tpm=6000)
    status, answer, headers = await ask(gateway, who)
    assert status == 200
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "59"
    assert headers["x-ratelimit-limit-tokens"] == "6000"
    left = 6000 - answer["usage"]["total_tokens"]
    assert left <= int(headers["x-ratelimit-remaining-tokens"]) <= 6000
    assert {"x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"} <= set(headers)
    _, _, refused = await ask(gateway, who, temperature=9)
    assert "x-ratelimit-remaining-requests" in refused


async def test_a_team_and_its_keys_are_each_obeyed(gateway: LiveGateway) -> None:
    team = await made(gateway, "teams", name="research", rpm=3)
    first = await key(gateway, team=team["id"], rpm=2)
    second = await key(gateway, team=team["id"])
    found = [(await ask(gateway, who))[0] for who in (first, first, first, second, second)]
    assert found == [200, 200, 429, 200, 429]


async def test_as_many_at_once_as_the_key_may_have(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**ADMINISTRATED, **{"engine.simulated.step_ms": 20})
    who = await key(gateway, max_concurrent=2)
    answers = await asyncio.gather(*(ask(gateway, who) for _ in range(6)))
    assert Counter(status for status, _, _ in answers) == {200: 2, 429: 4}
    await gateway.idle()
    assert (await ask(gateway, who))[0] == 200


async def test_a_spent_budget_is_told_not_to_be_tried_again(gateway: LiveGateway) -> None:
    who = await key(gateway, budgets=[{"unit": "tokens", "amount": 60, "window": "day"}])
    while (found := await ask(gateway, who))[0] == 200:
        pass
    status, answer, headers = found
    assert (status, answer["error"]["code"]) == (429, "insufficient_quota")
    assert headers["x-should-retry"] == "false"


async def test_money_is_counted_by_the_price_of_the_model(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**ADMINISTRATED, **{"price.completion": 1000})
    who = await key(gateway, budgets=[{"unit": "cost", "amount": "0.025", "window": "month"}])
    statuses = [(await ask(gateway, who))[0] for _ in range(3)]
    assert statuses == [200, 200, 429]  # a hundredth each


async def test_a_key_sees_only_the_models_and_endpoints_it_may_use(
    start_gateway: StartGateway,
) -> None:
    engine = {"kind": "simulated"}
    gateway = await start_gateway(
        models=[{"name": "one", "engine": engine}, {"name": "two", "engine": engine}],
        **ADMINISTRATED,
        **{"state.url": "sqlite://", "server.port": 0},
    )
    who = await key(gateway, models=["one"], endpoints=["/v1/chat/completions"])
    async with gateway.http.get(f"{gateway.url}/v1/models", headers=who) as answer:
        assert [model["id"] for model in (await answer.json())["data"]] == ["one"]
    assert (await ask(gateway, who, model="one", ignore_eos=None))[0] == 200
    status, answer, _ = await ask(gateway, who, model="two")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert "one" not in answer["error"]["message"]
    status, answer = await gateway.post(
        "/v1/completions", {"model": "one", "prompt": "Hi"}, headers=who
    )
    assert (status, answer["error"]["code"]) == (403, "insufficient_permissions")


async def test_a_revoked_key_is_refused_at_once_and_its_requests_end_well(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**ADMINISTRATED, **{"engine.simulated.step_ms": 20})
    whole = await made(gateway, "keys")
    running = asyncio.create_task(ask(gateway, bearer(whole)))
    async with asyncio.timeout(5):
        while not gateway.engine.stats().running:
            await asyncio.sleep(0.005)
    await made(gateway, f"keys/{whole['id']}/revoke")
    assert (await ask(gateway, bearer(whole)))[0] == 401
    assert (await running)[0] == 200


async def test_a_flood_of_one_team_does_not_stop_another(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        **ADMINISTRATED,
        **{"engine.max_num_seqs": 4, "engine.simulated.step_ms": 5, "admission.margin": 0},
    )
    loud, quiet = await key(gateway, name="loud"), await key(gateway, name="quiet")
    flood = [asyncio.create_task(ask(gateway, loud)) for _ in range(100)]
    async with asyncio.timeout(5):
        while gateway.services.admission.queued < 90:
            await asyncio.sleep(0.005)
    done = sum(task.done() for task in flood)
    assert (await ask(gateway, quiet))[0] == 200
    # First come first served, all the others would have been before it.
    assert sum(task.done() for task in flood) - done <= 12
    assert {status for status, _, _ in await asyncio.gather(*flood)} == {200}


async def test_batch_waits_for_everyone_else(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        **ADMINISTRATED,
        **{"engine.max_num_seqs": 1, "engine.simulated.step_ms": 5, "admission.margin": 0},
    )
    batch = await key(gateway, name="batch", priority="batch")
    online = await key(gateway, name="online")
    ended: list[str] = []

    async def one(name: str, who: dict[str, str]) -> None:
        assert (await ask(gateway, who))[0] == 200
        ended.append(name)

    work = [asyncio.create_task(one("batch", batch)) for _ in range(5)]
    async with asyncio.timeout(5):
        while gateway.services.admission.queued < 4:
            await asyncio.sleep(0.005)
    work += [asyncio.create_task(one("online", online)) for _ in range(5)]
    await asyncio.gather(*work)
    assert ended == ["batch"] + ["online"] * 5 + ["batch"] * 4


async def test_tenants_do_not_share_stored_objects(gateway: LiveGateway) -> None:
    team = await made(gateway, "teams", name="sharing")
    one = await key(gateway, team=team["id"])
    mate = await key(gateway, team=team["id"])
    other = await key(gateway)
    body = {"model": MODEL, "input": "Hi", "max_output_tokens": 16}
    _, stored = await gateway.post("/v1/responses", body, headers=one)
    found = []
    for who in (one, mate, other):
        path = f"{gateway.url}/v1/responses/{stored['id']}"
        async with gateway.http.get(path, headers=who) as answer:
            found.append(answer.status)
    assert found == [200, 200, 404]


async def test_counting_tokens_counts_as_a_request(gateway: LiveGateway) -> None:
    who = await key(gateway, rpm=2)
    message = {"model": MODEL, "messages": LONG["messages"]}
    sent = [
        ("/tokenize", message),
        ("/v1/messages/count_tokens", message),
        ("/v1/responses/input_tokens", {"model": MODEL, "input": "Hi"}),
    ]
    found = [(await gateway.post(path, body, headers=who))[0] for path, body in sent]
    assert found == [200, 200, 429]


async def test_a_prompt_that_was_given_to_the_engine_is_charged_though_its_client_has_gone(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **ADMINISTRATED, **{"engine.simulated.prefill_ms_per_token": 10_000}
    )
    whole = await made(
        gateway, "keys", budgets=[{"unit": "tokens", "amount": 200, "window": "day"}]
    )
    head = f"\r\nauthorization: {bearer(whole)['authorization']}\r\ncontent-type".encode()
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    long = {**LONG, "messages": [{"role": "user", "content": "a" * 150}], "max_tokens": 5}
    writer.write(request_bytes(long).replace(b"\r\ncontent-type", head, 1))
    async with asyncio.timeout(5):
        while not gateway.engine.stats().running:
            await asyncio.sleep(0.005)
    writer.transport.abort()
    await gateway.idle()
    assert (await ask(gateway, bearer(whole), max_tokens=60))[0] == 429


async def test_hanging_up_in_time_does_not_put_one_in_front(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        **ADMINISTRATED,
        **{
            "engine.max_num_seqs": 2,
            "admission.margin": 0,
            "engine.max_model_len": 4096,
            "engine.simulated.prefill_ms_per_token": 0.1,
        },
    )
    loud, quiet = await key(gateway, name="loud"), await key(gateway, name="quiet")
    for _ in range(10):  # so that it is known how fast prompts are read
        await ask(gateway, loud, messages=[{"role": "user", "content": "b" * 900}], max_tokens=1)
    stop = asyncio.Event()

    async def hang_up() -> None:
        long = {**LONG, "messages": [{"role": "user", "content": "a" * 1500}]}
        head = f"\r\nauthorization: {loud['authorization']}\r\ncontent-type".encode()
        while not stop.is_set():
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(request_bytes(long).replace(b"\r\ncontent-type", head, 1))
            await asyncio.sleep(0.05)
            writer.transport.abort()

    flood = [asyncio.create_task(hang_up()) for _ in range(16)]
    async with asyncio.timeout(5):
        while not gateway.services.admission.queued:
            await asyncio.sleep(0.005)
    async with asyncio.timeout(10):
        assert (await ask(gateway, quiet))[0] == 200
    stop.set()
    await asyncio.gather(*flood)
    await gateway.idle()


async def test_a_budget_given_later_counts_what_was_used_before(gateway: LiveGateway) -> None:
    whole = await made(gateway, "keys")
    for _ in range(5):
        assert (await ask(gateway, bearer(whole), max_tokens=20))[0] == 200
    await gateway.idle()
    await made(
        gateway,
        f"keys/{whole['id']}",
        budgets=[{"unit": "tokens", "amount": 100, "window": "total"}],
    )
    async with asyncio.timeout(5):
        while gateway.services.recall.pending:
            await asyncio.sleep(0.005)
    assert (await ask(gateway, bearer(whole), max_tokens=20))[0] == 429
