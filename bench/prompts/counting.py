"""Asks a server how many tokens a prompt has, by its tokenizer or by its `usage`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp

from bench.client import Target
from bench.errors import BenchError
from bench.load import without_key

PromptFields = Mapping[str, Any]
_NO_TOKENIZER = {404, 405, 501}


class PromptRefusedError(BenchError):
    """The server refused to count a prompt; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TokenCounter(Protocol):
    """Counts the prompt tokens of a request with these fields, chat template included."""

    @property
    def name(self) -> str: ...

    @property
    def leaves_no_trace(self) -> bool:
        """Whether counting a prompt keeps it out of the server's prefix cache."""
        ...

    async def count(self, fields: PromptFields) -> int: ...


class TokenizeCounter:
    """`POST /tokenize`, as vLLM's server has it; exact and cheap."""

    name = "tokenize"
    leaves_no_trace = True

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self._session = session
        self._target = target

    async def count(self, fields: PromptFields) -> int:
        body: dict[str, Any] = {"model": self._target.model, **fields}
        if "messages" in fields:
            body["add_generation_prompt"] = True
        url = self._target.base_url.removesuffix("/v1") + "/tokenize"
        answer = await _post(self._session, self._target, url, body)
        return _count_in(answer.get("count"), url)


class UsageCounter:
    """Generates one token and reads `usage.prompt_tokens`; for servers without `/tokenize`."""

    name = "usage"
    leaves_no_trace = False

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self._session = session
        self._target = target

    async def count(self, fields: PromptFields) -> int:
        body = {"model": self._target.model, **fields, "max_tokens": 1}
        answer = await _post(self._session, self._target, self._target.url, body)
        usage = answer.get("usage")
        return _count_in(
            usage.get("prompt_tokens") if isinstance(usage, dict) else None, self._target.url
        )


async def find_counter(
    session: aiohttp.ClientSession, target: Target, probe: PromptFields
) -> TokenCounter:
    """The cheapest counter this server offers. Raises BenchError: it can count no prompt."""
    tokenize = TokenizeCounter(session, target)
    try:
        await tokenize.count(probe)
    except PromptRefusedError as error:
        if error.status not in _NO_TOKENIZER:
            raise
    else:
        return tokenize
    usage = UsageCounter(session, target)
    await usage.count(probe)
    return usage


async def _post(
    session: aiohttp.ClientSession, target: Target, url: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    timeout, shown = aiohttp.ClientTimeout(total=120), without_key(url)
    try:
        async with session.post(
            url, data=json.dumps(body).encode(), headers=target.headers, timeout=timeout
        ) as response:
            payload = await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BenchError(f"{shown}: {type(error).__name__}: {error}") from error
    text = payload[:300].decode(errors="replace")
    if status != 200:
        raise PromptRefusedError(f"{shown}: HTTP {status}: {text}", status)
    try:
        answer = json.loads(payload)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise BenchError(f"{shown}: expected a JSON object, got: {text}")
    return answer


def _count_in(value: Any, url: str) -> int:
    if not isinstance(value, int):
        raise BenchError(f"{without_key(url)}: the answer states no number of prompt tokens")
    return value
