"""SIGTERM, twice SIGTERM, and `kill -9`, sent to the program in a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.servers.server import free_port
from tests.gateway.test_hangups import LONG, request_bytes


@dataclass
class Program:
    """`gateway serve` with a simulated engine, ready."""

    child: asyncio.subprocess.Process
    port: int

    async def stream(self, max_tokens: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Begin a stream; returns once its first event is there."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request_bytes({**LONG, "stream": True, "max_tokens": max_tokens}))
        await reader.readuntil(b"data: ")
        return reader, writer

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.child.wait()


StartProgram = Callable[..., Awaitable[Program]]


@pytest.fixture
async def start_program() -> AsyncIterator[StartProgram]:
    """Start programs with `--set` assignments; what still runs at the end is killed."""
    children: list[asyncio.subprocess.Process] = []

    async def start(port: int | None = None, **settings: object) -> Program:
        port = port or free_port()
        assignments = {"engine.kind": "simulated", "model_name": "test-model",
                       "engine.max_model_len": 4096, "engine.simulated.step_ms": 20,
                       **settings}  # fmt: skip
        options = [part for k, v in assignments.items() for part in ("--set", f"{k}={v}")]
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", "--port", str(port), *options,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        children.append(child)
        assert child.stderr is not None
        async with asyncio.timeout(60):
            while b"ready: " not in (line := await child.stderr.readline()):
                assert line, "the program ended before it was ready"
        return Program(child, port)

    yield start
    for child in children:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_sigterm_lets_a_stream_finish_and_exits_0(start_program: StartProgram) -> None:
    program = await start_program()
    reader, writer = await program.stream(max_tokens=30)
    program.child.send_signal(signal.SIGTERM)
    assert b"data: [DONE]" in await reader.read()
    assert await program.ended() == 0
    writer.close()


async def test_sigint_drains_too(start_program: StartProgram) -> None:
    program = await start_program()
    program.child.send_signal(signal.SIGINT)
    assert await program.ended() == 0


async def test_a_second_sigterm_stops_at_once(start_program: StartProgram) -> None:
    program = await start_program()
    reader, writer = await program.stream(max_tokens=4000)
    program.child.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        while True:
            probe_reader, probe = await asyncio.open_connection("127.0.0.1", program.port)
            probe.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = await probe_reader.read()
            probe.close()
            if b"draining" in answer:
                break
    program.child.send_signal(signal.SIGTERM)
    assert await program.ended() == 130
    assert b"[DONE]" not in await reader.read()
    writer.close()


async def test_after_kill_9_it_starts_again_on_the_same_port(start_program: StartProgram) -> None:
    program = await start_program()
    _, writer = await program.stream(max_tokens=4000)
    program.child.kill()
    await program.ended()
    writer.close()
    again = await start_program(port=program.port)
    reader, second = await again.stream(max_tokens=3)
    assert b"[DONE]" in await reader.readuntil(b"[DONE]")
    second.close()


async def test_a_port_in_use_is_exit_code_1_and_says_which_key(start_program: StartProgram) -> None:
    program = await start_program()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", "--port", str(program.port),
        "--set", "engine.kind=simulated", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await child.communicate()
    assert child.returncode == 1
    assert b"server.port" in said
    assert b"is another server running there?" in said
    assert json.dumps(program.port).encode() in said


async def refused(*options: str) -> tuple[int | None, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", "--set", "engine.kind=simulated", *options,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await child.communicate()
    return child.returncode, said.decode()


@pytest.mark.parametrize("host", ["ü..x", "nosuchhost.invalid"])
async def test_a_host_that_is_none_is_exit_code_1_and_nobody_elses_fault(host: str) -> None:
    code, said = await refused("--host", host)
    assert code == 1
    assert "server.host, server.port: can't listen on" in said
    assert "Traceback" not in said
    assert "another server" not in said


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["auth.admin_keys=[{name: a, env: NOSUCH}]"], "NOSUCH must hold a key"),
        (["limits.share=state", "state.url=sqlite://"], "keeps state in memory"),
        (
            ["server.host=0.0.0.0", "server.port=0", "state.url=sqlite://"],
            "no API key is asked for",
        ),
    ],
)
async def test_a_configuration_that_cant_be_used_is_exit_code_2(
    options: list[str], why: str
) -> None:
    code, said = await refused(*(word for option in options for word in ("--set", option)))
    assert code == 2
    assert why in said


async def test_a_store_that_is_down_is_exit_code_1_as_it_may_be_up_again(
    tmp_path: Path,
) -> None:
    redis = f"limits.share=redis://127.0.0.1:{free_port()}/0"
    code, said = await refused("--set", redis, "--set", f"state.url=sqlite:///{tmp_path}/s.db")
    assert code == 1
    assert "can't use Redis" in said
