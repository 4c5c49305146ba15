"""What one server's front end costs at one concurrency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.frontend.cpu import CpuTimes, cpu_times
from bench.frontend.work import Work, tokens
from bench.load import Request, Result, run_aside
from bench.stats import summarize

PATH = "/chat/completions"
_FAULTS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is up; `base_url` ends in `/v1`, `pid` is the process that speaks HTTP."""

    name: str
    base_url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Figures:
    """CPU times are those of the serving process alone, those of its children apart.

    `token_us` is what a streamed token costs beyond its request: the long run less the requests at
    `streamed_request_us`, by the tokens after each first; `token_all_in_us` is the long run's CPU
    by all of its tokens. Times in the names' units. `client_share` is how busy the load generator
    kept a core at most, `faulty` how many answers were wrong, `faults` how the first few were.
    A latency is None where nothing came.
    """

    streamed_request_us: float
    whole_request_us: float
    token_us: float
    token_all_in_us: float
    children_token_us: float
    output_tokens_per_s: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    itl_p50_ms: float | None
    itl_p99_ms: float | None
    client_share: float
    faulty: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One load on one server, and the CPU seconds it took there."""

    result: Result
    cpu: CpuTimes

    def faults(self) -> list[str]:
        return [fault for one in self.result.outcomes if (fault := one.fault()) is not None]


async def load(
    server: Served,
    requests: Sequence[Request],
    concurrency: int,
    on_tokens: Callable[[float], None],
) -> Run:
    """Send the requests; `on_tokens` is called with about how many tokens have come so far.

    Raises BenchError: the server is gone.
    """
    each = tokens(requests) / len(requests)
    before = cpu_times(server.pid)
    result = await run_aside(
        server.base_url,
        PATH,
        requests,
        concurrency=concurrency,
        on_progress=lambda finished: on_tokens(finished * each),
    )
    return Run(result, cpu_times(server.pid).since(before))


async def measure(server: Served, work: Work, on_tokens: Callable[[float], None]) -> Figures:
    """Do the three runs, one after the other. Raises BenchError: the server is gone."""
    runs: list[Run] = []
    for number, requests in enumerate(work.parts):
        done = sum(map(tokens, work.parts[:number]))
        on_more = partial(_add, on_tokens, done)
        runs.append(await load(server, requests, work.concurrency, on_more))
    return _figures(work, *runs)


def _add(on_tokens: Callable[[float], None], done: float, more: float) -> None:
    on_tokens(done + more)


def _figures(work: Work, streamed: Run, whole: Run, long: Run) -> Figures:
    requests, all_tokens = len(work.long), tokens(work.long)
    request_s = streamed.cpu.own / len(work.short_streamed)
    timings = [timing for one in long.result.outcomes if (timing := one.timing()) is not None]
    ttft = summarize(1000 * timing.first_s for timing in timings)
    itl = summarize(1000 * gap for timing in timings for gap in timing.gaps_s)
    runs = (streamed, whole, long)
    faults = [fault for run in runs for fault in run.faults()]
    return Figures(
        streamed_request_us=1e6 * request_s,
        whole_request_us=1e6 * whole.cpu.own / len(work.short_whole),
        token_us=1e6 * (long.cpu.own - requests * request_s) / (all_tokens - requests),
        token_all_in_us=1e6 * long.cpu.own / all_tokens,
        children_token_us=1e6 * long.cpu.children / all_tokens,
        output_tokens_per_s=all_tokens / long.result.wall_s,
        ttft_p50_ms=ttft.p50 if ttft else None,
        ttft_p99_ms=ttft.p99 if ttft else None,
        itl_p50_ms=itl.p50 if itl else None,
        itl_p99_ms=itl.p99 if itl else None,
        client_share=max(run.result.cpu_share for run in runs),
        faulty=len(faults),
        faults=tuple(faults[:_FAULTS_SHOWN]),
    )
