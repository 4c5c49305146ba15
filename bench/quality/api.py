"""The requests that measure quality; each answer is checked before it is believed."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from bench.client import Endpoint, Target
from bench.errors import BenchError

Item = TypeVar("Item")
Result = TypeVar("Result")
_DETAIL = 300


class RefusedError(BenchError):
    """The server refused a request, or answered with something else than was asked for."""


@dataclass(frozen=True, slots=True)
class Api:
    """One model of one server."""

    session: aiohttp.ClientSession
    base_url: str
    model: str
    api_key: str | None
    timeout_s: float

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids by `/tokenize`. Raises RefusedError."""
        url = self.base_url.removesuffix("/v1") + "/tokenize"
        body = {"prompt": text, "add_special_tokens": add_special_tokens}
        tokens = (await self._post(url, body)).get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(one, int) for one in tokens):
            raise RefusedError(f"{url}: the answer has no list of token ids")
        return tokens

    async def prompt_logprobs(self, tokens: Sequence[int]) -> list[float]:
        """The log-probability of every token of a prompt but the first, given those before it.

        Asks `/v1/completions` to echo the prompt and to add nothing. A server that adds a token
        all the same is read up to the prompt's end. Raises RefusedError.
        """
        url = f"{self.base_url}/completions"
        body = {
            "prompt": list(tokens),
            "echo": True,
            "max_tokens": 0,
            "logprobs": 0,
            "temperature": 0,
        }
        choice = _first_choice(await self._post(url, body), url)
        logprobs = choice.get("logprobs")
        found = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
        if not isinstance(found, list) or len(found) < len(tokens):
            count = len(found) if isinstance(found, list) else "no"
            raise RefusedError(
                f"{url}: {count} log-probabilities for a prompt of {len(tokens)} tokens; the "
                "server has to support `echo` with `logprobs`"
            )
        values = found[1 : len(tokens)]
        for position, value in enumerate(values, start=1):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise RefusedError(f"{url}: token {position} has the log-probability {value}")
        return [float(value) for value in values]

    async def answer(self, endpoint: Endpoint, fields: Mapping[str, Any], max_tokens: int) -> str:
        """The likeliest answer's text. Raises RefusedError."""
        url = Target(self.base_url, endpoint, self.model).url
        body = {**fields, "max_tokens": max_tokens, "temperature": 0}
        choice = _first_choice(await self._post(url, body), url)
        if endpoint == "chat":
            message = choice.get("message")
            text = message.get("content") if isinstance(message, dict) else None
        else:
            text = choice.get("text")
        if not isinstance(text, str):
            raise RefusedError(f"{url}: the answer has no text")
        return text

    async def _post(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = Target(self.base_url, "completions", self.model, self.api_key).headers
        try:
            async with self.session.post(
                url,
                data=json.dumps({"model": self.model, **body}).encode(),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            ) as response:
                payload = await response.read()
        except TimeoutError:
            raise RefusedError(f"{url}: no answer in {self.timeout_s:g} s; see --timeout") from None
        except aiohttp.ClientError as error:
            raise RefusedError(f"{url}: {type(error).__name__}: {error}") from error
        shown = payload[:_DETAIL].decode(errors="replace")
        if response.status != 200:
            raise RefusedError(f"{url}: HTTP {response.status}: {shown}")
        try:
            answer = json.loads(payload)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RefusedError(f"{url}: expected a JSON object, got: {shown}")
        return answer


async def in_parallel(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    concurrency: int,
    on_done: Callable[[], None],
) -> list[Result]:
    """The results in the order of the items; the first error ends it all."""
    results: dict[int, Result] = {}
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for index, item in waiting:
            results[index] = await work(item)
            on_done()

    workers = [asyncio.create_task(worker()) for _ in range(min(concurrency, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[index] for index in range(len(items))]


def _first_choice(answer: Mapping[str, Any], url: str) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise RefusedError(f"{url}: the answer has no choices")
    return choices[0]
