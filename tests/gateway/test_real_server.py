"""The program as its users run it: `python -m gateway serve` with the embedded model."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from bench.servers.server import free_port
from engine.config import EMBEDDED_MODEL
from tests.gateway.test_hangups import request_bytes
from tests.gateway.test_messages_answer import assembled, comparable, events_of

START_S = 240


class RealServer:
    """The server's process, and where it listens."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.port = free_port()
        self.log = log
        with log.open("wb") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--port", str(self.port), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ready(self) -> None:
        async with aiohttp.ClientSession() as http, asyncio.timeout(START_S):
            while True:
                assert self.child.poll() is None, self.log.read_text()
                try:
                    async with http.get(self.url + "/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.2)

    def kill(self) -> None:
        for child in [*psutil.Process(self.child.pid).children(recursive=True)]:
            child.kill()
        self.child.kill()
        self.child.wait()


EAGER = ("--set", "engine.compile=off", "--set", "engine.max_model_len=1024")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One server with the embedded model for every test here."""
    found = RealServer(tmp_path_factory.mktemp("server") / "log", *EAGER)
    try:
        asyncio.run(found.ready())
        yield found
        # As a terminal's Ctrl-C: to every process of the group. The engine's must not mind.
        os.killpg(found.child.pid, signal.SIGINT)
        assert found.child.wait(60) == 0, found.log.read_text()
    finally:
        if found.child.poll() is None:
            found.kill()


@pytest.fixture
def client(server: RealServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def ask(client: OpenAI, question: str, **fields: Any) -> str:
    answer = client.chat.completions.create(
        model=EMBEDDED_MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=40,
        **fields,
    )
    return answer.choices[0].message.content or ""


def test_it_knows_the_capital_of_japan_and_two_plus_two(client: OpenAI) -> None:
    assert "Tokyo" in ask(client, "What is the capital of Japan?")
    assert "4" in ask(client, "What is 2+2?")


def test_a_stream_adds_up_to_the_whole_answer(client: OpenAI) -> None:
    question = "What is the capital of Japan?"
    whole = ask(client, question)
    text, usage = "", None
    for chunk in client.chat.completions.create(
        model=EMBEDDED_MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == whole
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_completions_and_models_work_in_the_sdk(client: OpenAI) -> None:
    answer = client.completions.create(
        model=EMBEDDED_MODEL, prompt="The capital of Japan is", temperature=0, max_tokens=5
    )
    assert "Tokyo" in answer.choices[0].text
    assert [model.id for model in client.models.list()] == [EMBEDDED_MODEL]


def test_stop_seed_n_and_logit_bias_reach_the_engine(client: OpenAI) -> None:
    def sample(**fields: Any) -> list[str]:
        answer = client.chat.completions.create(
            model=EMBEDDED_MODEL,
            messages=[{"role": "user", "content": "Tell me a story."}],
            max_tokens=12,
            **fields,
        )
        return [choice.message.content or "" for choice in answer.choices]

    assert sample(seed=7, n=3) == sample(seed=7, n=3)
    assert len(set(sample(seed=7, n=3))) > 1
    (greedy,) = sample(temperature=0)
    word = greedy.split()[1]
    assert sample(temperature=0, stop=word) == [greedy[: greedy.index(word)]]
    (forced,) = sample(temperature=0, logit_bias={"28": 100})
    assert len(set(forced)) == 1
    assert forced != greedy


def test_wrong_models_and_long_prompts_are_openai_errors(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as missing:
        client.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "a"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(BadRequestError) as long:
        ask(client, "many words " * 1000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")


LOOK = {
    "name": "look",
    "input_schema": {
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "end_turn"),
        ({"stop_sequences": ["Tokyo"]}, "stop_sequence"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"tools": [LOOK], "tool_choice": {"type": "any"}}, "tool_use"),
        ({"tools": [LOOK], "tool_choice": {"type": "tool", "name": "look"}}, "tool_use"),
        ({"thinking": {"type": "disabled"}, "max_tokens": 64_000}, "end_turn"),
    ],
)
async def test_messages_say_in_events_what_they_say_whole(
    server: RealServer, fields: dict[str, Any], reason: str
) -> None:
    body = {
        "model": EMBEDDED_MODEL,
        "max_tokens": 60,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
        **fields,
    }
    url = server.url + "/v1/messages"
    async with aiohttp.ClientSession() as http:
        async with http.post(url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            whole = comparable(await answer.json())
        async with http.post(url, json={**body, "stream": True}) as answer:
            streamed = comparable(assembled(events_of(await answer.read())))
        del body["max_tokens"], body["temperature"]
        body.pop("stop_sequences", None)
        async with http.post(url + "/count_tokens", json=body) as answer:
            counted = (await answer.json())["input_tokens"]
    for message in (whole, streamed):
        usage = message.pop("usage")
        assert usage["input_tokens"] + usage["cache_read_input_tokens"] == counted
        del message["id"]
    assert streamed == whole
    assert whole["stop_reason"] == reason
    if reason == "tool_use":
        assert all(set(block["input"]) == {"city"} for block in whole["content"])
    if reason == "end_turn":
        assert "Tokyo" in whole["content"][0]["text"]


async def test_200_hang_ups_mid_stream_leave_nothing_in_the_real_engine(server: RealServer) -> None:
    body = {
        "model": EMBEDDED_MODEL,
        "messages": [{"role": "user", "content": "Count to a thousand."}],
        "max_tokens": 900,
        "ignore_eos": True,
        "stream": True,
    }

    async def hang_up() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_bytes(body))
        await reader.readuntil(b"data: ")
        writer.transport.abort()

    async with asyncio.timeout(120):
        await asyncio.gather(*(hang_up() for _ in range(200)))
    async with aiohttp.ClientSession() as http, asyncio.timeout(5):
        while await running(http, server):
            await asyncio.sleep(0.05)


async def running(http: aiohttp.ClientSession, server: RealServer) -> float:
    """Sequences the engine has, running or waiting, and requests the gateway has."""
    async with http.get(server.url + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    names = ("gateway_requests_running ", "gateway_engine_sequences_")
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


async def test_metrics_show_vllms_own_series_beside_ours(
    server: RealServer, client: OpenAI
) -> None:
    ask(client, "What is 2+2?")
    async with aiohttp.ClientSession() as http, http.get(server.url + "/metrics") as answer:
        text = await answer.text()
    assert "vllm:num_requests_running" in text
    assert "vllm:prefix_cache_queries_total" in text
    # What is counted for each request is ours alone: vLLM's would stay at zero.
    assert "vllm:generation_tokens" not in text
    assert "vllm:time_to_first_token" not in text
    assert "gateway_inter_token_latency_seconds_count" in text
    assert "gateway_generation_tokens_total" in text
