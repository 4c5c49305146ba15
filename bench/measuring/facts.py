"""What is measured, and with what: facts of the server and of the client's machine."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.client import request_headers
from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself; `version` and `engine` are None where it doesn't."""

    base_url: str
    model: str
    model_entry: dict[str, Any]
    header: str | None
    version: str | None
    engine: dict[str, Any] | None

    @property
    def max_model_len(self) -> int | None:
        """The longest prompt + completion in tokens, where the server tells."""
        for source in (self.model_entry, self.engine or {}):
            value = source.get("max_model_len")
            if isinstance(value, int):
                return value
        return None


async def read_server(
    session: aiohttp.ClientSession, base_url: str, *, api_key: str | None, model: str | None
) -> ServerFacts:
    """Ask `/v1/models` and `/version`; `model` None takes the first one listed.

    Raises BenchError: unreachable, refused, or not an OpenAI-compatible server.
    """
    url = f"{base_url}/models"
    status, answer, header = await _get(session, url, api_key)
    if status in (401, 403):
        raise BenchError(
            f"{url}: HTTP {status}: the server wants a key; give --api-key or OPENAI_API_KEY"
        )
    entries = answer.get("data") if status == 200 and isinstance(answer, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BenchError(
            f"{url}: HTTP {status}, but no list of models: is this the base URL of an "
            "OpenAI-compatible server? It usually ends in /v1."
        )
    names = [str(entry.get("id")) for entry in entries]
    if model is None and not names:
        raise BenchError(f"{url}: the server lists no models; name one with --model")
    if model is not None and model not in names:
        raise BenchError(f"the server has no model {model!r}; it has: {', '.join(names) or 'none'}")
    chosen = model or names[0]
    status, version, _ = await _get(session, base_url.removesuffix("/v1") + "/version", api_key)
    stated = version if status == 200 and isinstance(version, dict) else {}
    number, engine = stated.get("version"), stated.get("engine")
    return ServerFacts(
        base_url=base_url,
        model=chosen,
        model_entry=entries[names.index(chosen)],
        header=header,
        version=number if isinstance(number, str) else None,
        engine=engine if isinstance(engine, dict) else None,
    )


def client_facts(event_loop: str) -> dict[str, Any]:
    """The machine and the versions the client runs with; nothing that identifies its user."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "event_loop": event_loop,
    }


async def _get(
    session: aiohttp.ClientSession, url: str, api_key: str | None
) -> tuple[int, Any, str | None]:
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with session.get(url, headers=request_headers(api_key), timeout=timeout) as response:
            payload = await response.read()
            try:
                answer = json.loads(payload)
            except ValueError:
                answer = None
            return response.status, answer, response.headers.get("server")
    except aiohttp.InvalidURL:
        raise BenchError(f"{url}: not a URL") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise BenchError(
            f"{url}: can't be reached: {reason}. Start a server first, or use --serve CONFIG."
        ) from error


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
