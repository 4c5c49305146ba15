"""A hundred thousand short requests of every kind, and what the server still holds afterwards."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Final

from bench.exact.answers import expected, foretold
from bench.exact.plan import Case, plan
from bench.load import Expected, Outcome, Request, run_aside
from bench.servers.server import ChildServer
from bench.soak.trend import Trend, trend
from bench.tiny.model import MAX_MODEL_LEN, TinyModel
from bench.tiny.servers import NAME
from bench.utilization.process import Holdings, Memory, memory

# Requests between two measurements of the memory, of which there are at least ten.
_BATCH: Final = 1000
FEWEST: Final = 10
SERVING: Final = "serving process"
ENGINE: Final = "engine's processes"
_MAX_TOKENS: Final = 16
_MAX_WORDS: Final = 40
_SHOWN: Final = 1000
# Shares of the requests; the rest is streamed to its end.
_HANG_UPS: Final = 0.15
_BAD: Final = 0.15
_WHOLE: Final = 0.3
# What no server takes, whatever it is lenient about.
_BAD_BODIES: Final = (
    b"{",
    b"[]",
    json.dumps({"model": "nobody", "prompt": "a", "messages": []}).encode(),
    json.dumps({"model": NAME, "prompt": 1.5, "messages": "hello"}).encode(),
    json.dumps(
        {"model": NAME, "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
        | {"temperature": -1}
    ).encode(),
    json.dumps(
        {"model": NAME, "prompt": "a " * MAX_MODEL_LEN}
        | {"messages": [{"role": "user", "content": "a " * MAX_MODEL_LEN}]}
    ).encode(),
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request and what it is counted as: streamed, whole, hang-up or bad."""

    kind: str
    path: str
    request: Request


@dataclass(frozen=True, slots=True)
class Point:
    """The server's memory after so many requests, `at_s` seconds after the first."""

    requests: int
    at_s: float
    memory: Memory


@dataclass(slots=True)
class Tally:
    """Requests so far by kind, what was wrong with answers, and the memory."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


def mix(model: TinyModel, count: int, seed: int) -> list[Sent]:
    """`count` requests drawn from a seed, the answers they have to get with them."""
    rng = random.Random(seed)
    cases = plan(model, NAME, count, seed, max_tokens=_MAX_TOKENS, max_words=_MAX_WORDS)
    return [_sent(model, case, rng) for case in cases]


def fault(sent: Sent, outcome: Outcome) -> str | None:
    """What is wrong with an answer; a bad request has to be refused as one."""
    if sent.kind != "bad":
        return outcome.fault()
    if outcome.error is None and 400 <= outcome.status < 500:
        return None
    return f"a bad request got HTTP {outcome.status} ({outcome.error or 'whole'})"


async def load(
    server: ChildServer,
    model: TinyModel,
    count: int,
    seed: int,
    *,
    concurrency: int,
    on_progress: Callable[[int], None],
) -> Tally:
    """Send `count` requests, some hundreds at a time; between them the memory is measured.

    Raises BenchError: the server can't be connected to. Raises psutil.NoSuchProcess: it is gone.
    """
    tally = Tally()
    start = perf_counter()
    size = max(1, min(_BATCH, count // FEWEST))
    for done in range(0, count, size):
        batch = mix(model, min(size, count - done), seed + done)
        for path in sorted({one.path for one in batch}):
            await _send(
                server, path, [one for one in batch if one.path == path], concurrency, tally
            )
        served = done + len(batch)
        on_progress(served)
        tally.points.append(Point(served, perf_counter() - start, memory(server.pid)))
    return tally


async def _send(
    server: ChildServer, path: str, some: Sequence[Sent], concurrency: int, tally: Tally
) -> None:
    result = await run_aside(
        server.base_url,
        path,
        [one.request for one in some],
        concurrency=concurrency,
        on_progress=lambda _finished: None,
    )
    for sent, outcome in zip(some, result.outcomes, strict=True):
        tally.counts[sent.kind] += 1
        wrong = fault(sent, outcome)
        if wrong is not None:
            body = sent.request.body.decode(errors="replace")
            tally.faults.append(f"{sent.kind}: {wrong}; the request: {body[:_SHOWN]}")


def leaks(points: Sequence[Point], before: Holdings, after: Holdings) -> list[str]:
    """Everything that the serving process holds more of than it did `before`, in words.

    The memory of the engine's processes is measured, but nothing the serving process can help.
    """
    found = []
    line = trends(points)[SERVING]
    if not line.flat:
        found.append(f"memory of the {SERVING} grows by {line.slope:,.0f} bytes a request")
    for name in ("descriptors", "threads"):
        more = getattr(after, name) - getattr(before, name)
        if more > 0:
            found.append(f"{more} more {name} are open")
    found += [f"{name} is {value:g}" for name, value in after.busy_gauges.items()]
    if not after.gauges:
        found.append("/metrics has none of the gauges that have to be 0")
    return found


def trends(points: Sequence[Point]) -> dict[str, Trend]:
    """The line through the memory of the serving process, and of what it started, in bytes a
    request."""
    served = [point.requests for point in points]
    found = {SERVING: trend(served, [point.memory.serving for point in points])}
    if all(point.memory.children for point in points):
        found[ENGINE] = trend(served, [point.memory.children for point in points])
    return found


def _sent(model: TinyModel, case: Case, rng: random.Random) -> Sent:
    draw = rng.random()
    if draw < _BAD:
        return Sent("bad", case.path, Request(rng.choice(_BAD_BODIES)))
    if not case.vllm_takes_it:
        case = replace(case, body={key: case.body[key] for key in case.body if key != "n"})
    expects = _expected(model, case)
    if draw < _BAD + _WHOLE:
        return Sent("whole", case.path, Request(case.encoded(stream=False), expects))
    streamed = Request(case.encoded(stream=True), expects)
    if draw < _BAD + _WHOLE + _HANG_UPS:
        left = rng.randint(1, 3)
        return Sent("hang-up", case.path, replace(streamed, hang_up_after=left))
    return Sent("streamed", case.path, streamed)


def _expected(model: TinyModel, case: Case) -> Expected | None:
    choice = foretold(model, case)
    if choice is None:
        return None
    answer = expected(case, choice)
    return Expected(answer.texts, answer.completion_tokens or 0, choice.finish_reason)
