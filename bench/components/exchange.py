"""One request by two clocks: the client's around it, and the server's account of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from time import perf_counter
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from bench.client import Expected, Failure, Outcome, Sample, Target
from bench.components.timing import ServerTiming, parse, parse_stream
from bench.sse import StreamScan

UNTIMED: Final = "no_server_timing"
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class Trace(Sample):
    """A request that succeeded, and where the server says its time went. `connect_s` is what a
    new connection took; one that is used again takes nothing."""

    connect_s: float = 0.0
    server: ServerTiming | None = None


class _FailedError(Exception):
    """The answer is not the one that was asked for."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def traced_session() -> aiohttp.ClientSession:
    """As `client.new_session`, and `trace` learns of new connections."""
    config = aiohttp.TraceConfig()
    config.on_connection_create_start.append(_connecting)
    config.on_connection_create_end.append(_connected)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trace_configs=[config],
    )


async def trace(
    session: aiohttp.ClientSession, target: Target, body: bytes, expected: Expected
) -> Outcome:
    """Send one request and read its answer: a Trace, or why there is none. Never raises on a bad
    answer."""
    marks: dict[str, float] = {}
    start = perf_counter()
    try:
        async with session.post(
            target.url,
            data=body,
            headers=target.headers,
            timeout=aiohttp.ClientTimeout(total=expected.timeout_s),
            trace_request_ctx=marks,
        ) as response:
            if response.status != 200:
                raise _FailedError(f"http_{response.status}", await response.text(errors="replace"))
            read = _read_stream if expected.stream else _read_whole
            return await read(response, expected, start, marks.get("connect_s", 0.0))
    except _FailedError as error:
        kind, detail = error.kind, str(error)
    except TimeoutError:
        kind, detail = "timeout", f"no complete answer in {expected.timeout_s:g} s"
    except aiohttp.ClientError as error:
        kind, detail = "connection", f"{type(error).__name__}: {error}"
    return Failure(kind, detail[:_SHOWN], perf_counter() - start)


async def _read_stream(
    response: aiohttp.ClientResponse, expected: Expected, start: float, connect_s: float
) -> Trace:
    scan, pieces = StreamScan(), []
    end = start
    async for received in response.content.iter_any():
        end = perf_counter()
        scan.feed(received, end)
        pieces.append(received)
    if scan.error is not None:
        raise _FailedError("error_event", scan.error)
    if not scan.done or not scan.content_times:
        raise _FailedError("cut_stream", "the stream has no text, or no [DONE]")
    return Trace(
        **_tokens(scan.usage, expected),
        ttft_s=scan.content_times[0] - start,
        e2el_s=end - start,
        connect_s=connect_s,
        server=_timing(parse_stream(b"".join(pieces))),
    )


async def _read_whole(
    response: aiohttp.ClientResponse, expected: Expected, start: float, connect_s: float
) -> Trace:
    payload = await response.read()
    end = perf_counter()
    try:
        answer = json.loads(payload)
    except ValueError:
        answer = None
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return Trace(
        **_tokens(usage, expected),
        ttft_s=None,
        e2el_s=end - start,
        connect_s=connect_s,
        server=_timing(parse(response.headers.get("Server-Timing", ""))),
    )


def _timing(found: ServerTiming | None) -> ServerTiming:
    if found is None:
        raise _FailedError(UNTIMED, "the answer doesn't say where its time went")
    return found


def _tokens(usage: Any, expected: Expected) -> dict[str, Any]:
    """The counts of a Sample, where they are what was asked for."""
    stated = usage if isinstance(usage, dict) else {}
    prompt, completion = stated.get("prompt_tokens"), stated.get("completion_tokens")
    asked = prompt if expected.prompt_tokens is None else expected.prompt_tokens
    if not isinstance(prompt, int) or (prompt, completion) != (asked, expected.completion_tokens):
        raise _FailedError(
            "wrong_tokens",
            f"usage says {prompt} and {completion} tokens, expected {asked} and "
            f"{expected.completion_tokens}",
        )
    return {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": None}


async def _connecting(_session: Any, context: SimpleNamespace, _params: Any) -> None:
    context.began = perf_counter()


async def _connected(_session: Any, context: SimpleNamespace, _params: Any) -> None:
    if context.trace_request_ctx is not None:  # of `trace`
        context.trace_request_ctx["connect_s"] = perf_counter() - context.began
