"""`/admin/v1/usage`: the ledger of a running gateway, for its administrators."""

from __future__ import annotations

import asyncio
import csv
import io
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.store import usage as store
from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.several import ADMIN, ADMIN_KEYS


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> LiveGateway:
    price = {"prompt": 1, "completion": 2}
    return await start_gateway(price=price, **{"auth.admin_keys": ADMIN_KEYS})


async def usage(gateway: LiveGateway, query: str = "", **headers: str) -> tuple[int, Any]:
    url = f"{gateway.url}/admin/v1/usage{query}"
    async with gateway.http.get(url, headers={**ADMIN, **headers}) as answer:
        if answer.content_type == "text/csv":
            return answer.status, list(csv.DictReader(io.StringIO(await answer.text())))
        return answer.status, await answer.json()


async def test_what_an_answer_used_is_there_at_once(gateway: LiveGateway) -> None:
    _, answer = await gateway.chat(max_tokens=4)
    used = answer["usage"]
    status, found = await usage(gateway, "?by=model,outcome")
    assert (status, found["object"], found["by"]) == (200, "usage", ["model", "outcome"])
    (group,) = found["data"]
    assert (group["model"], group["outcome"], group["requests"]) == ("test-model", "completed", 1)
    assert group["prompt_tokens"] == used["prompt_tokens"]
    assert group["completion_tokens"] == used["completion_tokens"]
    nanos = 1000 * used["prompt_tokens"] + 2000 * used["completion_tokens"]
    assert float(group["cost"]) == nanos / 10**9


async def test_refused_requests_are_there_too(gateway: LiveGateway) -> None:
    await gateway.chat(model="nobody")
    await gateway.chat(temperature=-1)
    _, found = await usage(gateway, "?by=outcome")
    assert [(group["outcome"], group["requests"]) for group in found["data"]] == [("rejected", 2)]


async def test_it_is_csv_where_that_is_asked_for(gateway: LiveGateway) -> None:
    await gateway.chat()
    _, asked = await usage(gateway, "?format=csv&by=caller")
    _, accepted = await usage(gateway, "?by=caller", Accept="text/csv")
    assert asked == accepted
    assert [(line["caller"], line["requests"]) for line in asked] == [("anonymous", "1")]


async def test_it_comes_in_pages(gateway: LiveGateway) -> None:
    await gateway.chat()
    await gateway.chat(model="nobody")
    _, first = await usage(gateway, "?by=outcome&limit=1")
    _, second = await usage(gateway, "?by=outcome&limit=1&offset=1")
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert [page["data"][0]["outcome"] for page in (first, second)] == ["completed", "rejected"]


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("?by=x", 400, "by"),
        ("?since=soon", 400, "since"),
        ("?since=0001-01-01T00:00:00%2B23:59", 400, "since"),
        ("?until=0001-01-02", 400, "until"),
        ("?until=9999-12-31T23:59:59-23:59", 400, "until"),
        ("?limit=0", 400, "limit"),
        ("?keys=a", 400, "keys"),
        ("?outcome=x", 400, "outcome"),
        ("?key=nope", 404, "key"),
        ("?team=nope", 404, "team"),
    ],
)
async def test_what_is_asked_wrongly_is_told(
    gateway: LiveGateway, query: str, status: int, param: str
) -> None:
    found, answer = await usage(gateway, query)
    assert (found, answer["error"]["param"]) == (status, param)


async def test_all_is_one_sum(gateway: LiveGateway) -> None:
    await gateway.chat()
    await gateway.chat(model="nobody")
    _, found = await usage(gateway, "?by=all")
    assert (found["by"], [group["requests"] for group in found["data"]]) == ([], [2])


async def test_it_goes_back_no_further_than_the_calendar(gateway: LiveGateway) -> None:
    status, found = await usage(gateway, "?until=1970-01-02")
    assert (status, found["since"]) == (200, "1970-01-01T00:00:00Z")


async def test_however_many_reports_are_made_other_reads_are_answered(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"auth.admin_keys": ADMIN_KEYS, "state.url": f"sqlite:///{tmp_path}/state.db"}
    gateway = await start_gateway(**settings)
    begun, held = threading.Event(), threading.Event()

    def hold(*_: Any, **__: Any) -> list[Any]:
        begun.set()
        held.wait(10)
        return []

    monkeypatch.setattr(store, "sums", hold)
    reports = [asyncio.create_task(usage(gateway)) for _ in range(8)]
    assert await asyncio.to_thread(begun.wait, 10)
    async with (
        asyncio.timeout(5),
        gateway.http.get(f"{gateway.url}/admin/v1/keys", headers=ADMIN) as answer,
    ):
        assert answer.status == 200
    assert not any(report.done() for report in reports)
    held.set()
    assert [status for status, _ in await asyncio.gather(*reports)] == [200] * 8


async def test_nobody_else_sees_it(gateway: LiveGateway) -> None:
    assert (await usage(gateway, Authorization="Bearer wrong"))[0] == 401
