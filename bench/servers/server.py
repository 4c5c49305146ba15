"""Starts a server as a child, waits until it is ready, and stops it with all it started."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO

import aiohttp
import psutil

from bench.errors import BenchError

# Ours answers 503 at the first until it can serve; vLLM's server knows only the second.
_READY_PATHS = ("/readyz", "/health")
_POLL_S = 0.25
_TAIL_LINES = 25


@dataclass(frozen=True, slots=True)
class ChildServer:
    """A running server; `base_url` ends in `/v1`, `ready_after_s` is how long it took."""

    base_url: str
    pid: int
    ready_after_s: float

    def cpu_s(self) -> float:
        """CPU seconds used so far by the server and everything it started and still runs."""
        return cpu_of_tree(self.pid)


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_of_tree(pid: int) -> float:
    """CPU seconds of a living process and its living descendants; 0 where it is gone."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for one in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
    return total


@asynccontextmanager
async def running_server(
    command: Sequence[str],
    port: int,
    *,
    environ: Mapping[str, str] | None = None,
    start_timeout_s: float = 600.0,
    stop_timeout_s: float = 60.0,
    on_wait: Callable[[float], None] = lambda _elapsed: None,
) -> AsyncIterator[ChildServer]:
    """Run `command`, which listens on `port`; stop it with SIGTERM on leaving.

    `on_wait` is called with the seconds waited so far. Raises BenchError, with the end of the
    server's output: it can't be run, ends early, or isn't ready in time.
    """
    with tempfile.NamedTemporaryFile(prefix="bench-server-", suffix=".log") as log:
        process = await _spawn(command, environ, log)
        try:
            waited = await _ready(process, port, start_timeout_s, on_wait, Path(log.name))
            yield ChildServer(f"http://127.0.0.1:{port}/v1", process.pid, waited)
        finally:
            await _stop(process, stop_timeout_s)


async def _spawn(
    command: Sequence[str], environ: Mapping[str, str] | None, log: IO[bytes]
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(os.environ if environ is None else environ),
            # A Ctrl-C at the terminal is ours to pass on, after the requests have ended.
            start_new_session=True,
        )
    except OSError as error:
        raise BenchError(f"can't run {command[0]}: {error.strerror}") from error


async def _ready(
    process: asyncio.subprocess.Process,
    port: int,
    timeout_s: float,
    on_wait: Callable[[float], None],
    log: Path,
) -> float:
    start = perf_counter()
    async with aiohttp.ClientSession() as session:
        while True:
            waited = perf_counter() - start
            on_wait(waited)
            if process.returncode is not None:
                raise BenchError(
                    f"the server ended with exit code {process.returncode} before it was ready"
                    + output_tail(log)
                )
            if await _answers(session, port):
                return waited
            if waited > timeout_s:
                raise BenchError(
                    f"the server was not ready after {timeout_s:g} s{output_tail(log)}"
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _POLL_S)


async def _answers(session: aiohttp.ClientSession, port: int) -> bool:
    for path in _READY_PATHS:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(
                f"http://127.0.0.1:{port}{path}", timeout=aiohttp.ClientTimeout(total=5)
            ) as response:
                if response.status == 200:
                    return True
    return False


async def _stop(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), timeout_s)
    # What a server leaves behind when it is killed, or dies, still belongs to its group.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def output_tail(log: Path) -> str:
    """For the end of an error: what a program that failed printed last."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "; the end of its output:\n" + "\n".join(lines) if lines else "; it printed nothing"
