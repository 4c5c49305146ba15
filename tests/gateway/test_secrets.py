"""Nothing secret is in the logs of a gateway that tells all it has to tell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

START_S = 60
CHAT = "/v1/chat/completions"
READY = re.compile(r"ready: test-model at (http://[\d.:]+)/v1")


@dataclass
class Talk:
    """A gateway's process, and everything secret that was said to it or that it said."""

    log: Path
    url: str = ""
    statuses: list[int] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)

    def secret(self, where: str) -> str:
        """A text of no known form, so that what makes keys unreadable can't know it."""
        return self.secrets.setdefault(where, secrets.token_hex(20))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def send(
        self, http: aiohttp.ClientSession, method: str, path: str, key: str, **given: Any
    ) -> Any:
        headers = {
            **({"authorization": f"Bearer {key}"} if key else {}),
            **given.pop("headers", {}),
        }
        async with http.request(method, self.url + path, headers=headers, **given) as answer:
            self.statuses.append(answer.status)
            body = await answer.read()
        return json.loads(body) if body.startswith(b"{") else body


def start(talk: Talk, folder: Path) -> subprocess.Popen[bytes]:
    """A gateway at its most talkative."""
    config = {
        "model_name": "test-model",
        "log_level": "debug",
        "engine": {
            "kind": "simulated",
            "max_model_len": 512,
            "simulated": {"step_ms": 1, "fail_every": 3},
        },
        "server": {"port": 0},
        "state": {"url": f"sqlite:///{folder}/state.db"},
        "auth": {
            "api_keys": [{"name": "ann", "env": "ANNS_KEY"}],
            "admin_keys": [{"name": "root", "env": "ADMINS_KEY"}],
            "pepper_env": "SOME_PEPPER",
        },
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    environ = {
        "ANNS_KEY": talk.secret("a configured key"),
        "ADMINS_KEY": talk.secret("the administrator's key"),
        "SOME_PEPPER": talk.secret("the pepper"),
        "HF_TOKEN": talk.secret("a token for model downloads"),
    }
    with talk.log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(path)],
            env={**os.environ, **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


async def started(talk: Talk, child: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(START_S):
        while not (found := READY.search(talk.log.read_text())):
            assert child.poll() is None, talk.log.read_text()
            await asyncio.sleep(0.05)
    talk.url = found[1]


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "test-model", "messages": [{"role": "user", "content": content}], **fields}


async def what_clients_say(talk: Talk, http: aiohttp.ClientSession) -> None:
    """Good requests, and the ways in which keys get where they don't belong."""
    key, prompt = talk.secret("a configured key"), talk.secret("a prompt")
    stray = talk.secret("a key somewhere")
    for number in range(6):  # some of which the engine lets fail
        await talk.send(http, "POST", CHAT, key, json=chat(prompt, stream=number % 2 == 0))
    await talk.send(http, "POST", CHAT, key, json=chat(prompt, store=True, metadata={"k": stray}))
    for body in (
        chat(prompt, **{stray: 1}),
        chat(prompt, temperature=stray),
        chat(prompt, user=stray),
        {**chat(prompt), "model": stray},
    ):
        await talk.send(http, "POST", CHAT, key, json=body)
    headers = {"content-type": "application/json"}
    torn = f'{{"api_key": "{stray}", '.encode()
    await talk.send(http, "POST", CHAT, key, data=torn, headers=headers)
    for path, body in (
        ("/v1/completions", {"model": "test-model", "prompt": prompt}),
        ("/v1/responses", {"model": "test-model", "input": prompt, "store": True}),
        ("/v1/conversations", {"metadata": {"k": stray}}),
        ("/v1/embeddings", {"model": "test-model", "input": prompt}),
    ):
        await talk.send(http, "POST", path, key, json=body)
    anthropic = chat(prompt, max_tokens=4)
    await talk.send(http, "POST", "/v1/messages", "", json=anthropic, headers={"x-api-key": key})
    await talk.send(http, "GET", f"/v1/models?api_key={stray}&key={key}", key)
    await talk.send(http, "GET", f"/v1/models/{stray}", key)
    await talk.send(http, "GET", f"/{stray}", key)
    await talk.send(http, "GET", "/v1/models", talk.secret("a wrong key"))
    headers = {"x-api-key": talk.secret("a wrong x-api-key")}
    await talk.send(http, "GET", "/v1/models", "", headers=headers)
    headers = {"authorization": f"Basic {talk.secret('a Basic password')}"}
    await talk.send(http, "GET", "/v1/models", "", headers=headers)
    headers = {"cookie": f"session={stray}", "openai-organization": stray}
    await talk.send(http, "GET", "/v1/models", key, headers=headers)


async def what_breaks_connections(talk: Talk, http: aiohttp.ClientSession) -> None:
    """Hang-ups, and what is no HTTP."""
    key, prompt = talk.secret("a configured key"), talk.secret("a prompt")
    headers = {"authorization": f"Bearer {key}"}
    body = chat(prompt, stream=True, max_tokens=400)
    async with http.post(talk.url + CHAT, headers=headers, json=body) as answer:
        await answer.content.readany()
    for lines in (
        f"GET /{key} HTP/nonsense\r\nauthorization: {key}\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\ncontent-length: {key}\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nauthorization: Bearer {key}\r\ncontent-length: 9\r\n\r\n{{",
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", talk.port)
        writer.write(lines.encode())
        await writer.drain()
        writer.close()


async def what_administrators_do(talk: Talk, http: aiohttp.ClientSession) -> None:
    """A key's life."""
    admin, ours = talk.secret("the administrator's key"), "/admin/v1/keys"
    made = await talk.send(http, "POST", ours, admin, json={"name": "bob"})
    talk.secrets["a virtual key"] = made["value"]
    await talk.send(http, "GET", "/v1/models", made["value"])
    await talk.send(http, "POST", CHAT, made["value"], json=chat("Hi", store=True))
    await talk.send(http, "POST", ours, talk.secret("a wrong administrator's key"), json={})
    await talk.send(http, "POST", ours, admin, json={"name": 7, talk.secret("a field"): 1})
    rotated = await talk.send(http, "POST", f"{ours}/{made['id']}/rotate", admin, json={})
    talk.secrets["its next value"] = rotated["value"]
    await talk.send(http, "POST", f"{ours}/{made['id']}/revoke", admin)
    await talk.send(http, "GET", "/v1/models", rotated["value"])
    await talk.send(http, "GET", "/admin/v1/audit", admin)


async def test_a_whole_run_logs_no_secret(tmp_path: Path) -> None:
    talk = Talk(tmp_path / "log")
    with start(talk, tmp_path) as child:
        try:
            await started(talk, child)
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
                await what_clients_say(talk, http)
                await what_breaks_connections(talk, http)
                await what_administrators_do(talk, http)
        finally:
            child.terminate()
    written = talk.log.read_text()
    assert child.returncode == 0, written
    assert {200, 400, 401, 404, 500} <= set(talk.statuses), talk.statuses
    assert " error gateway" in written  # the engine's failures, at least
    leaked = {where for where, secret in talk.secrets.items() if secret in written}
    assert leaked == set(), written


def test_a_database_that_is_refused_is_refused_without_its_password() -> None:
    secret = secrets.token_hex(20)
    url = f"postgresql://user:{secret}@127.0.0.1:1/gateway"
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "gateway", "serve", "--port", "0"),
            *("--set", "engine.kind=simulated", "--set", f"state.url={url}"),
        ],
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert "state.url: can't use postgresql" in refused.stderr
    assert secret not in refused.stdout + refused.stderr
