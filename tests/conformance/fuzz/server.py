"""The server that the cases are sent to, and whether it is well afterwards."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
import psutil

from bench.servers.server import free_port, running_server
from bench.tiny import model as tiny
from engine import models
from engine.config import EMBEDDED_MODEL

Engine = Literal["tiny", "embedded", "simulated"]

EMBEDDER: Final = "embedder"
MAX_GROWTH_MIB: Final = 512
_MIB: Final = 1024 * 1024
_IDLE: Final = (
    "gateway_requests_running",
    "gateway_engine_sequences_running",
    "gateway_engine_sequences_waiting",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A running server; `url` is without `/v1`."""

    url: str
    pid: int
    api_key: str
    model: str

    async def document(self) -> dict[str, Any]:
        """`/openapi.json`."""
        async with self._session() as session, session.get("/openapi.json") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def complaints(self) -> list[str]:
        """What isn't as it has to be when nothing runs."""
        found = []
        async with self._session() as session:
            async with session.get("/readyz") as answer:
                if answer.status != 200:
                    found.append(f"/readyz answers {answer.status}: {await answer.text()}")
            said = [{"role": "user", "content": "What is 2+2?"}]
            body = {"model": self.model, "messages": said, "max_completion_tokens": 8}
            async with session.post("/v1/chat/completions", json=body) as answer:
                text = await answer.text()
                if answer.status != 200 or not json.loads(text)["usage"]["completion_tokens"]:
                    found.append(f"a chat completion gets {answer.status}: {text}")
            async with session.get("/metrics") as answer:
                lines = (await answer.text()).splitlines()
        running = [one for one in lines if one.startswith(_IDLE) and not one.endswith(" 0.0")]
        return found + [f"something still runs: {line}" for line in running]

    def resident_mib(self) -> int:
        """Memory of the server and all it started."""
        total = 0
        root = psutil.Process(self.pid)
        for one in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
        return total // _MIB

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url,
            headers={"authorization": f"Bearer {self.api_key}"},
            timeout=aiohttp.ClientTimeout(total=120),
        )


@asynccontextmanager
async def fuzzed_server(home: Path, engine: Engine) -> AsyncIterator[Target]:
    """Our server on a free port until the end, with keys; its configuration is kept in `home`.

    Raises BenchError where it doesn't start.
    """
    config = home / "server.yaml"
    config.write_text(json.dumps(_configuration(home, engine), indent=1))
    port, key = free_port(), secrets.token_hex(24)
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "-p", str(port)]
    environ = {**os.environ, "FUZZ_API_KEY": key, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    async with running_server(command, port, environ=environ) as child:
        yield Target(f"http://127.0.0.1:{port}", child.pid, key, EMBEDDED_MODEL)


def _configuration(home: Path, engine: Engine) -> dict[str, Any]:
    # What embeds is simulated: it has a second engine's answers without its start.
    embedder = {"kind": "simulated", "runner": "pooling"}
    return {
        "models": [
            {"name": EMBEDDED_MODEL, "engine": _engine(home, engine)},
            {"name": EMBEDDER, "engine": embedder},
        ],
        "state": {"url": "sqlite://"},
        "log_level": "warning",
        "auth": {"api_keys": [{"name": "fuzz", "env": "FUZZ_API_KEY"}]},
    }


def _engine(home: Path, engine: Engine) -> dict[str, Any]:
    if engine == "simulated":
        times = {"step_ms": 0.2, "prefill_ms_per_token": 0}
        return {"kind": "simulated", "max_model_len": 2048, "simulated": times}
    real = {
        "max_model_len": 1024,
        "max_num_seqs": 8,
        "kv_cache_gib": 0.25,
        "compile": "off",
        "warmup": False,
    }
    if engine == "embedded":
        return real
    return real | {"model": str(_tiny_checkpoint(home / "tiny")), "dtype": "float32"}


def _tiny_checkpoint(target: Path) -> Path:
    """Its steps take a millisecond. The embedded model's template knows tools, and takes messages
    without content."""
    target.mkdir(exist_ok=True)
    tiny.make(target)
    shutil.copy(models.resolve(EMBEDDED_MODEL).path / "chat_template.jinja", target)
    return target
