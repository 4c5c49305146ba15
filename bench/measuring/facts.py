"""What is measured, and with what: facts of the server and of the client's machine."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import aiohttp

from bench.client import request_headers
from bench.errors import BenchError
from bench.load import key_of, without_key


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

    def shown(self) -> dict[str, Any]:
        """As others may read it: without what is before the host of its URL."""
        shown = {**asdict(self), "base_url": without_key(self.base_url)}
        return {**shown, "max_model_len": self.max_model_len}


async def read_server(
    session: aiohttp.ClientSession, base_url: str, *, api_key: str | None, model: str | None
) -> ServerFacts:
    """Ask `/v1/models` and `/version`; `model` None takes the first one listed.

    Raises BenchError: unreachable, refused, or not an OpenAI-compatible server; or its URL names a
    user beside the key, and a request has room for one of them.
    """
    try:
        url, user = f"{without_key(base_url)}/models", key_of(base_url)
    except ValueError:
        raise BenchError(f"{base_url.rpartition('@')[2]}: not a URL") from None
    if api_key and user is not None:
        raise BenchError(
            f"{url}: there is a user before the host of the URL, and a key as well: leave out the "
            "one, or the other (--api-key, OPENAI_API_KEY)"
        )
    status, answer, header = await _get(session, f"{base_url}/models", api_key)
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
    timeout, shown = aiohttp.ClientTimeout(total=30), without_key(url)
    try:
        async with session.get(url, headers=request_headers(api_key), timeout=timeout) as response:
            payload = await response.read()
            try:
                answer = json.loads(payload, parse_constant=_no_number)
            except ValueError:
                answer = None
            return response.status, answer, response.headers.get("server")
    except aiohttp.InvalidURL:
        raise BenchError(f"{shown}: not a URL") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise BenchError(
            f"{shown}: can't be reached: {reason}. Start a server first, or use --serve CONFIG."
        ) from error


def _no_number(name: str) -> NoReturn:
    """NaN and Infinity are no JSON, though Python reads them."""
    raise ValueError(name)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
