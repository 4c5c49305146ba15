"""LoRA adapters: chosen like models, loaded and unloaded while the program runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.base import Engine
from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.several import (
    ADMIN,
    ADMIN_KEY,
    ADMIN_KEYS,
    chat_model,
    embedder,
    make_adapter,
    simulated,
)

HI: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two adapters below the directory that adapters may come from, and one beside it."""
    make_adapter(tmp_path / "root" / "one")
    make_adapter(tmp_path / "root" / "deeper" / "two")
    make_adapter(tmp_path / "beside")
    return tmp_path / "root"


@pytest.fixture
async def gateway(start_gateway: StartGateway, root: Path) -> LiveGateway:
    engine = simulated(adapter_root=str(root), max_adapters=2, simulated={"step_ms": 5})
    models = [{"name": "base", "aliases": ["b"], "engine": engine}, chat_model("fixed"), embedder()]
    settings = {"auth.admin_keys": ADMIN_KEYS, "state.url": "sqlite://"}
    return await start_gateway(models=models, **settings)


async def admin(
    gateway: LiveGateway, method: str, below: str = "", headers: Any = ADMIN, **body: Any
) -> tuple[int, Any]:
    url = f"{gateway.url}/admin/v1/adapters{below}"
    sent: dict[str, Any] = {"json": body} if method == "POST" else {}
    async with gateway.http.request(method, url, headers=headers, **sent) as answer:
        return answer.status, await answer.json()


async def load(gateway: LiveGateway, **fields: Any) -> tuple[int, Any]:
    return await admin(gateway, "POST", **{"name": "one", "path": "one", "base": "base", **fields})


def engine(gateway: LiveGateway) -> Engine:
    return gateway.services.deployments.resolve("base").engine()


async def test_a_configured_adapter_is_a_model_of_its_own(
    start_gateway: StartGateway, root: Path
) -> None:
    adapters = [{"name": "tuned", "path": str(root / "one")}]
    gateway = await start_gateway(models=[chat_model("base", adapters=adapters)])
    answer = await gateway.openai.chat.completions.create(model="tuned", messages=HI)
    assert answer.model == "tuned"
    assert [model.id async for model in gateway.openai.models.list()] == ["base", "tuned"]
    assert engine(gateway).adapters == ("tuned",)


async def test_a_configured_adapter_that_isnt_there_stops_the_start(
    start_gateway: StartGateway, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapters = [{"name": "tuned", "path": str(root / "none")}]
    gateway = await start_gateway(wait_ready=False, models=[chat_model("base", adapters=adapters)])
    assert await gateway.task == 1
    assert "the engine of base could not start" in "\n".join(caplog.messages)


async def test_one_that_is_loaded_answers_at_once_and_no_more_once_unloaded(
    gateway: LiveGateway,
) -> None:
    assert (await gateway.chat(model="one"))[0] == 404
    status, made = await load(gateway)
    assert (status, made["id"], made["base"]) == (200, "one", "base")
    status, answer = await gateway.chat(model="one")
    assert (status, answer["model"]) == (200, "one")
    assert (await admin(gateway, "GET"))[1]["data"] == [made]
    status, gone = await admin(gateway, "DELETE", "/one")
    assert (status, gone) == (200, {"id": "one", "object": "adapter", "deleted": True})
    status, answer = await gateway.chat(model="one")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert engine(gateway).adapters == ()
    assert (await admin(gateway, "GET"))[1]["data"] == []


async def test_the_audit_log_has_who_loaded_and_unloaded_one(gateway: LiveGateway) -> None:
    await load(gateway)
    await admin(gateway, "DELETE", "/one")
    await load(gateway, path="none")  # which fails
    url = f"{gateway.url}/admin/v1/audit"
    async with gateway.http.get(url, headers=ADMIN) as answer:
        events = (await answer.json())["data"]
    told = [(event["actor"], event["action"], event["target"]) for event in events]
    assert told == [
        ("admin:root", "adapter.unload", "one"),
        ("admin:root", "adapter.load", "one"),
    ]
    assert events[1]["detail"] == {"path": "one", "base": "base"}


async def test_unloading_refuses_new_requests_and_lets_those_that_run_end(
    gateway: LiveGateway,
) -> None:
    await load(gateway)
    stream = await gateway.openai.chat.completions.create(
        model="one", messages=HI, stream=True, max_tokens=60, extra_body={"ignore_eos": True}
    )
    chunks = aiter(stream)
    await anext(chunks)
    unloading = asyncio.create_task(admin(gateway, "DELETE", "/one"))
    async with asyncio.timeout(5):
        while (await gateway.chat(model="one"))[0] != 404:
            await asyncio.sleep(0)
    assert not unloading.done()
    assert engine(gateway).adapters == ("one",)
    assert (await load(gateway))[0] == 409  # its name is free once it is gone
    rest = [chunk async for chunk in chunks]
    assert rest[-1].choices[0].finish_reason == "length"
    assert (await unloading)[0] == 200
    assert engine(gateway).adapters == ()
    assert (await load(gateway))[0] == 200


async def test_a_hung_up_client_does_not_keep_an_adapter(gateway: LiveGateway) -> None:
    await load(gateway)
    stream = await gateway.openai.chat.completions.create(
        model="one", messages=HI, stream=True, max_tokens=400, extra_body={"ignore_eos": True}
    )
    await anext(aiter(stream))
    await stream.close()
    async with asyncio.timeout(5):
        assert (await admin(gateway, "DELETE", "/one"))[0] == 200


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"path": "../beside"}, 400, "path"),
        ({"path": "/etc"}, 400, "path"),
        ({"path": "."}, 400, "path"),
        ({"path": "none"}, 400, "path"),
        ({"path": "deeper"}, 400, "path"),
        ({"path": "a\0b"}, 400, "path"),
        ({"path": "x" * 4000}, 400, "path"),
        ({"path": "link"}, 400, "path"),
        ({"path": "linked-weights"}, 400, "path"),
        ({"path": ""}, 400, "path"),
        ({"name": "base"}, 409, "name"),
        ({"name": "b"}, 409, "name"),
        ({"name": ""}, 400, "name"),
        ({"base": "none"}, 404, "base"),
        ({"base": "fixed"}, 400, "base"),
        ({"base": "embedder"}, 400, "base"),
        ({"more": 1}, 400, "more"),
    ],
)
async def test_what_cant_be_loaded_is_refused_and_named(
    gateway: LiveGateway, root: Path, fields: dict[str, Any], status: int, param: str
) -> None:
    (root / "link").symlink_to(root.parent / "beside")
    linked = make_adapter(root / "linked-weights")
    (linked / "adapter_model.safetensors").unlink()
    (linked / "adapter_model.safetensors").symlink_to(
        root.parent / "beside" / "adapter_config.json"
    )
    got, answer = await load(gateway, **fields)
    assert (got, answer["error"]["param"]) == (status, param)
    assert [found["id"] for found in (await admin(gateway, "GET"))[1]["data"]] == []


async def test_outside_of_the_root_nothing_is_told_of_what_is_there(
    gateway: LiveGateway, root: Path
) -> None:
    _, there = await load(gateway, path="../beside")
    _, not_there = await load(gateway, path="../nothing")
    assert there == not_there
    linked = make_adapter(root / "linked")
    (linked / "adapter_config.json").unlink()
    (linked / "adapter_config.json").symlink_to("/etc/hostname")
    assert (await load(gateway, path="linked"))[1] == not_there


async def test_an_adapter_is_no_base_and_there_are_only_so_many_places(
    gateway: LiveGateway, root: Path
) -> None:
    make_adapter(root / "three")
    assert (await load(gateway))[0] == 200
    assert (await load(gateway))[0] == 409
    assert (await load(gateway, name="x", base="one"))[1]["error"]["param"] == "base"
    assert (await load(gateway, name="two", path=str(root / "deeper" / "two"), base="b"))[0] == 200
    status, answer = await load(gateway, name="three", path="three")
    assert (status, answer["error"]["param"]) == (400, "base")


async def test_only_administrators_get_there(start_gateway: StartGateway) -> None:
    keys = {"auth.admin_keys": ADMIN_KEYS}
    gateway = await start_gateway(**keys)
    for method in ("GET", "POST"):
        for header in ({}, {"authorization": "Bearer wrong"}):
            assert (await admin(gateway, method, headers=header))[0] == 401
    assert (await admin(gateway, "GET"))[0] == 200
    assert (await admin(gateway, "DELETE", "/none"))[0] == 404


async def test_an_administrators_key_opens_nothing_else(start_gateway: StartGateway) -> None:
    other = [{"name": "someone", "sha256": "0" * 64}]
    gateway = await start_gateway(**{"auth.admin_keys": ADMIN_KEYS, "auth.api_keys": other})
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with gateway.http.get(gateway.url + "/v1/models", headers=headers) as answer:
        assert answer.status == 401


async def test_without_admin_keys_there_is_no_such_url(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    for method, path in [("GET", ""), ("POST", ""), ("DELETE", "/one"), ("PUT", "")]:
        status, answer = await admin(gateway, method, path)
        assert (status, answer["error"]["code"]) == (404, "unknown_url")
