"""One request of a tenant, and what came of it, a refusal with its advice included."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import aiohttp

from bench.client import Expected, RefusedAnswerError, request_headers, stream_usage
from bench.sse import StreamScan

REFUSALS = (429, 503)
_SHOWN = 200
# Of what failed, so many are written down: a flood may be ten thousand requests.
FAULTS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and exactly how many completion tokens answer it."""

    body: bytes
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request. Times by the clock of `perf_counter`; `times` are those of its text.

    `status` is 0 where no answer began. `retry_after_s` is what a refusal advised. `error` says
    why the answer is not whole; a refusal is whole. `retries` counts the attempts before.
    `disguised`: it was refused by an event in a stream that had begun with 200, which `status` then
    doesn't tell. `hung_up`: its client didn't wait for the end.
    """

    tenant: str
    sent_at: float
    ended_at: float
    status: int
    times: tuple[float, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    retry_after_s: float | None = None
    error: str | None = None
    retries: int = 0
    disguised: bool = False
    hung_up: bool = False

    @property
    def answered(self) -> bool:
        """Whether it is a whole completion."""
        return self.status == 200 and self.error is None

    @property
    def refused(self) -> bool:
        return self.status in REFUSALS

    @property
    def ttft_s(self) -> float | None:
        """Of one hung up on before any text came, the time waited: it is at least that."""
        if self.times:
            return self.times[0] - self.sent_at
        return self.ended_at - self.sent_at if self.hung_up else None

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; None where it is not defined."""
        if not self.answered or not self.times or self.completion_tokens < 2:
            return None
        return (self.times[-1] - self.times[0]) / (self.completion_tokens - 1)

    def meets(self, ttft_s: float, tpot_s: float) -> bool:
        """Whether it is good: whole, and within both objectives."""
        if not self.answered or self.ttft_s is None:
            return False
        return self.ttft_s <= ttft_s and (self.tpot_s or 0.0) <= tpot_s

    def service(self, start: float, end: float) -> float:
        """Prompt + 2 x completion tokens between two times: the prompt, without what was cached,
        when its first text came, the completion spread evenly over its texts."""
        if not self.times:
            return 0.0
        inside = sum(1 for at in self.times if start <= at < end)
        first = start <= self.times[0] < end
        prompt = self.prompt_tokens - self.cached_tokens if first else 0
        return prompt + 2.0 * self.completion_tokens * inside / len(self.times)

    def tokens(self, start: float, end: float) -> float:
        """Prompt + completion tokens between two times."""
        if not self.times:
            return 0.0
        inside = sum(1 for at in self.times if start <= at < end)
        first = start <= self.times[0] < end
        return first * self.prompt_tokens + self.completion_tokens * inside / len(self.times)


def faults_of(attempts: Sequence[Attempt]) -> list[str]:
    """Why answers were not whole."""
    return [one.error for one in attempts if one.error is not None]


async def attempt(
    session: aiohttp.ClientSession,
    url: str,
    request: Request,
    *,
    tenant: str,
    api_key: str | None,
    timeout_s: float,
    retries: int = 0,
    on_hung_up: Callable[[Attempt], None] = lambda _attempt: None,
) -> Attempt:
    """Send one streamed request and read its answer to the end. Never raises on a bad answer.

    As OpenAI's SDKs do, it says how often it was sent before. `on_hung_up` is told what had come
    when the task is cancelled.
    """
    scan, expected = StreamScan(), Expected(None, request.completion_tokens, True, timeout_s)
    status, error, advice = 0, None, None
    sent_at = perf_counter()

    def ended(error: str | None, *, hung_up: bool = False) -> Attempt:
        refusal = None if scan.content_times else _refusal_in(scan.error)
        usage = scan.usage or {}
        return Attempt(
            tenant=tenant,
            sent_at=sent_at,
            ended_at=perf_counter(),
            status=refusal or status,
            times=tuple(scan.content_times),
            prompt_tokens=_count(usage, "prompt_tokens"),
            cached_tokens=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
            # Of one that isn't whole, so many at least.
            completion_tokens=_count(usage, "completion_tokens") or len(scan.content_times),
            retry_after_s=advice,
            error=None if refusal else error,
            retries=retries,
            disguised=refusal is not None,
            hung_up=hung_up,
        )

    try:
        async with session.post(
            url,
            data=request.body,
            headers={**request_headers(api_key), "x-stainless-retry-count": str(retries)},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            status = response.status
            if status == 200:
                async for received in response.content.iter_any():
                    scan.feed(received, perf_counter())
                error = _lacking(scan, expected)
            else:
                text = await response.text(errors="replace")
                advice = retry_after(response.headers)
                error = None if status in REFUSALS else f"HTTP {status}: {text[:_SHOWN]}"
    except TimeoutError:
        error = f"no complete answer in {timeout_s:g} s"
    except aiohttp.ClientError as failure:
        error = f"{type(failure).__name__}: {failure}"
    except asyncio.CancelledError:
        waited_s = perf_counter() - sent_at
        on_hung_up(ended(f"hung up after {waited_s:.0f} s without a whole answer", hung_up=True))
        raise
    return ended(error)


def _lacking(scan: StreamScan, expected: Expected) -> str | None:
    """Why a stream is not the answer that was asked for. A single token may have no text."""
    try:
        stream_usage(scan, expected)
    except RefusedAnswerError as refused:
        return str(refused)
    if expected.completion_tokens > 1 and not scan.content_times:
        return "no chunk carried any text"
    return None


def _count(usage: Any, name: str) -> int:
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) else 0


def _refusal_in(event: str | None) -> int | None:
    """The status of an error event that is a refusal."""
    try:
        code = json.loads(event or "")["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if code in REFUSALS else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, as OpenAI's SDKs read them: `retry-after-ms`, else `retry-after` as a number."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    return None
