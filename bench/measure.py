"""One measurement: warm-up, then the closed loop, with the client's own CPU time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import process_time
from typing import Protocol

import aiohttp

from bench.client import Endpoint, Expected, Outcome, Target, complete, request_body
from bench.errors import BenchError
from bench.facts import ServerFacts
from bench.loop import LoopResult, closed_loop
from bench.workload import Workload


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure; the same settings and seed send the same requests. Lengths in tokens."""

    endpoint: Endpoint = "chat"
    input_tokens: int = 128
    output_tokens: int = 128
    concurrency: int = 32
    requests: int = 128
    warmup: int = 32
    seed: int = 0
    stream: bool = True
    temperature: float = 0.0
    timeout_s: float = 600.0

    @property
    def expected(self) -> Expected:
        return Expected(self.input_tokens, self.output_tokens, self.stream, self.timeout_s)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything one measurement found; warm-up requests are in `warmup` alone."""

    settings: Settings
    server: ServerFacts
    layout: str
    counted_by: str
    started_at: datetime
    warmup: LoopResult
    measured: LoopResult
    client_cpu_s: float

    @property
    def interrupted(self) -> bool:
        return self.warmup.interrupted or self.measured.interrupted


class Watcher(Protocol):
    """Is told how a measurement goes on."""

    def begin(self, phase: str, total: int) -> None: ...

    def outcome(self, outcome: Outcome) -> None: ...


def check_fits(settings: Settings, server: ServerFacts) -> None:
    """Raises BenchError: the model's context is too short for the requests."""
    wanted = settings.input_tokens + settings.output_tokens
    if server.max_model_len is not None and wanted > server.max_model_len:
        raise BenchError(
            f"{settings.input_tokens} input and {settings.output_tokens} output tokens don't fit "
            f"the {server.max_model_len} tokens of {server.model}'s context"
        )


async def measure(
    session: aiohttp.ClientSession,
    target: Target,
    settings: Settings,
    server: ServerFacts,
    workload: Workload,
    watcher: Watcher,
    on_start: Callable[[], None] = lambda: None,
) -> Measurement:
    """Send the warm-up, wait for it, then measure. The workload holds the prompts of both.

    `on_start` is called between the two. An interruption gives what was measured until then.
    """
    bodies = [
        request_body(target, settings.expected, draft.fields(workload.layout), settings.temperature)
        for draft in workload.drafts
    ]

    async def send(body: bytes) -> Outcome:
        return await complete(session, target, body, settings.expected)

    async def phase(name: str, part: list[bytes]) -> LoopResult:
        watcher.begin(name, len(part))
        return await closed_loop(
            part, concurrency=settings.concurrency, send=send, on_outcome=watcher.outcome
        )

    warmup, measured = LoopResult(), LoopResult()
    if settings.warmup:
        warmup = await phase("warm-up", bodies[: settings.warmup])
    on_start()
    started_at, cpu = datetime.now(UTC), process_time()
    if not warmup.interrupted:
        measured = await phase("measuring", bodies[settings.warmup :])
    return Measurement(
        settings=settings,
        server=server,
        layout=workload.layout,
        counted_by=workload.counted_by,
        started_at=started_at,
        warmup=warmup,
        measured=measured,
        client_cpu_s=process_time() - cpu,
    )
