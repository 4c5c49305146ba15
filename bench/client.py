"""One request: send it, time it, and judge whether the answer is what was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from time import perf_counter
from typing import Any, Literal

import aiohttp

from bench.load.answer import UnreadableAnswerError, decode
from bench.sse import StreamScan

Endpoint = Literal["chat", "completions"]
_PATHS: dict[Endpoint, str] = {"chat": "/chat/completions", "completions": "/completions"}
_DETAIL_CHARS = 300


class FailureKind(StrEnum):
    """Why a request failed; an HTTP status is a kind of its own, `http_500`."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    CUT_STREAM = "cut_stream"
    ERROR_EVENT = "error_event"
    MISSING_DONE = "missing_done"
    MISSING_USAGE = "missing_usage"
    NO_CONTENT = "no_content"
    NOT_A_COMPLETION = "not_a_completion"
    WRONG_PROMPT_TOKENS = "wrong_prompt_tokens"
    WRONG_COMPLETION_TOKENS = "wrong_completion_tokens"


@dataclass(frozen=True, slots=True)
class Target:
    """Which server, endpoint and model; `base_url` ends in `/v1` and has no trailing slash."""

    base_url: str
    endpoint: Endpoint
    model: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return self.base_url + _PATHS[self.endpoint]

    @property
    def headers(self) -> dict[str, str]:
        return request_headers(self.api_key)


@dataclass(frozen=True, slots=True)
class Expected:
    """The exact token counts that `usage` has to state, and how long an answer may take.

    `prompt_tokens` None believes what it states. `keep_text`: the text of the answer is wanted.
    """

    prompt_tokens: int | None
    completion_tokens: int
    stream: bool
    timeout_s: float
    keep_text: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A request that succeeded. Times in seconds from just before it was sent.

    Without streaming there is no `ttft_s`. `gaps_s` are the times between chunks that carry text;
    a chunk may carry several tokens. `text` is kept only where it was asked for.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    ttft_s: float | None
    e2el_s: float
    gaps_s: tuple[float, ...] = ()
    content_chunks: int = 0
    text: str = field(default="", repr=False)

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None where it is not defined."""
        if self.ttft_s is None or self.completion_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.completion_tokens - 1)


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed, `after_s` seconds from just before it was sent."""

    kind: str
    detail: str
    after_s: float


Outcome = Sample | Failure


class RefusedAnswerError(Exception):
    """The answer arrived but is not the one that was asked for."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def request_headers(api_key: str | None) -> dict[str, str]:
    """Headers of every request; compression would cost both sides time."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def request_body(
    target: Target, expected: Expected, prompt: Mapping[str, Any], temperature: float
) -> bytes:
    """Encode one request; `ignore_eos` makes the completion exactly as long as asked for."""
    body: dict[str, Any] = {
        "model": target.model,
        **prompt,
        "max_tokens": expected.completion_tokens,
        "min_tokens": expected.completion_tokens,
        "ignore_eos": True,
        "temperature": temperature,
        "stream": expected.stream,
    }
    if expected.stream:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def new_session() -> aiohttp.ClientSession:
    """A session that opens as many connections as there are requests and keeps them."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


async def complete(
    session: aiohttp.ClientSession, target: Target, body: bytes, expected: Expected
) -> Outcome:
    """Send one request and read its answer to the end. Never raises on a bad answer."""
    answered = False
    start = perf_counter()
    try:
        async with session.post(
            target.url,
            data=body,
            headers=target.headers,
            timeout=aiohttp.ClientTimeout(total=expected.timeout_s),
        ) as response:
            answered = True
            if response.status != 200:
                detail = await response.text(errors="replace")
                raise RefusedAnswerError(f"http_{response.status}", detail)
            if expected.stream:
                return await _read_stream(response, start, expected)
            return _read_object(await response.read(), start, expected)
    except RefusedAnswerError as error:
        kind, detail = error.kind, str(error)
    except TimeoutError:
        kind, detail = FailureKind.TIMEOUT, f"no complete answer in {expected.timeout_s:g} s"
    except aiohttp.ClientError as error:
        kind = FailureKind.CUT_STREAM if answered else FailureKind.CONNECTION
        detail = f"{type(error).__name__}: {error}"
    return Failure(str(kind), detail[:_DETAIL_CHARS], perf_counter() - start)


async def _read_stream(
    response: aiohttp.ClientResponse, start: float, expected: Expected
) -> Sample:
    if response.content_type != "text/event-stream":
        raise RefusedAnswerError(
            FailureKind.NOT_A_COMPLETION, f"expected an event stream, got {response.content_type}"
        )
    scan, kept = StreamScan(), list[bytes]()
    async for received in response.content.iter_any():
        scan.feed(received, perf_counter())
        if expected.keep_text:
            kept.append(received)
    end = perf_counter()
    prompt, completion, cached = stream_usage(scan, expected)
    times = scan.content_times
    if not times:
        raise RefusedAnswerError(FailureKind.NO_CONTENT, "no chunk carried any text")
    return Sample(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        ttft_s=times[0] - start,
        e2el_s=end - start,
        gaps_s=tuple(later - earlier for earlier, later in pairwise(times)),
        content_chunks=len(times),
        text=_text(b"".join(kept)) if expected.keep_text else "",
    )


def stream_usage(scan: StreamScan, expected: Expected) -> tuple[int, int, int | None]:
    """Prompt, completion and cached tokens that a stream states, None where it doesn't say. Raises
    RefusedAnswerError: it isn't whole, or those aren't what was asked for."""
    if scan.error is not None:
        raise RefusedAnswerError(FailureKind.ERROR_EVENT, scan.error)
    if not scan.done:
        raise RefusedAnswerError(FailureKind.MISSING_DONE, "the stream ended without [DONE]")
    return _checked_usage(scan.usage, expected)


def _read_object(payload: bytes, start: float, expected: Expected) -> Sample:
    end = perf_counter()
    try:
        answer = json.loads(payload)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not answer.get("choices"):
        raise RefusedAnswerError(
            FailureKind.NOT_A_COMPLETION, payload[:_DETAIL_CHARS].decode(errors="replace")
        )
    prompt, completion, cached = _checked_usage(answer.get("usage"), expected)
    text = _text(payload) if expected.keep_text else ""
    return Sample(prompt, completion, cached, ttft_s=None, e2el_s=end - start, text=text)


def _text(payload: bytes) -> str:
    """The first choice of an answer, or of the events of one."""
    try:
        return next(iter(decode(payload).texts), "")
    except UnreadableAnswerError as error:
        raise RefusedAnswerError(FailureKind.NOT_A_COMPLETION, str(error)) from error


def _checked_usage(usage: Any, expected: Expected) -> tuple[int, int, int | None]:
    """Prompt, completion and cached tokens; the last is None where the server doesn't say."""
    if not isinstance(usage, dict):
        raise RefusedAnswerError(FailureKind.MISSING_USAGE, "the answer states no usage")
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or expected.prompt_tokens not in (None, prompt):
        raise RefusedAnswerError(
            FailureKind.WRONG_PROMPT_TOKENS,
            f"usage says {prompt} prompt tokens, expected {expected.prompt_tokens or 'a number'}",
        )
    if completion != expected.completion_tokens:
        raise RefusedAnswerError(
            FailureKind.WRONG_COMPLETION_TOKENS,
            f"usage says {completion} completion tokens, expected {expected.completion_tokens}",
        )
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return prompt, completion, cached if isinstance(cached, int) else None
