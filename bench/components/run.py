"""One case after the other: so many requests in flight, until each was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from time import perf_counter

import aiohttp

from bench.client import Expected, Failure, Outcome, Target, request_body
from bench.components.exchange import UNTIMED, trace
from bench.components.findings import Case, Cell
from bench.errors import BenchError
from bench.measuring.loop import LoopResult, closed_loop
from bench.measuring.measure import Watcher
from bench.prompts.prompt import Prompt

_ROUND_TRIPS = 50
_FEWEST_REQUESTS = 32


@dataclass(frozen=True, slots=True)
class Load:
    """What every case asks for; lengths in tokens. `requests` None: four for each in flight, and
    at least 32, so that a p95 says something."""

    input_tokens: int
    output_tokens: int
    requests: int | None
    timeout_s: float

    def warmup(self, case: Case) -> int:
        """Requests that open the connections."""
        return case.concurrency

    def measured(self, case: Case) -> int:
        if self.requests is None:
            return max(_FEWEST_REQUESTS, 4 * case.concurrency)
        return max(self.requests, case.concurrency)

    def expected(self, case: Case, prompt: Prompt) -> Expected:
        return Expected(prompt.prompt_tokens, self.output_tokens, case.stream, self.timeout_s)


class Measuring:
    """The cells so far; `interrupted` once it has been ended early."""

    def __init__(
        self, session: aiohttp.ClientSession, target: Target, load: Load, prompts: Iterator[Prompt]
    ) -> None:
        self.cells: list[Cell] = []
        self.interrupted = False
        self._session = session
        self._target = target
        self._load = load
        self._prompts = prompts

    async def probe(self, case: Case) -> None:
        """Raises BenchError: the server answers, but doesn't say where its time goes."""
        outcome = await self._send(case, next(self._prompts))
        if isinstance(outcome, Failure) and outcome.kind == UNTIMED:
            raise BenchError(
                f"{self._target.url}: the answers don't say where their time went; start the "
                "gateway with `--set server.server_timing=true`, or let --serve CONFIG do it"
            )

    async def all(self, cases: Sequence[Case], watcher: Callable[[Case], Watcher]) -> None:
        """Measure one case after the other, until an interruption."""
        for case in cases:
            if not self.interrupted:
                await self._case(case, watcher(case))

    async def _case(self, case: Case, watcher: Watcher) -> None:
        warmup = await self._phase(case, watcher, "warm-up", self._load.warmup(case))
        found = LoopResult(interrupted=warmup.interrupted)
        if not warmup.interrupted:
            found = await self._phase(case, watcher, "measuring", self._load.measured(case))
        self.interrupted = found.interrupted
        failed = [one for one in warmup.outcomes if isinstance(one, Failure)]
        if found.outcomes or failed:
            self.cells.append(Cell(case, found.outcomes, failed))

    async def _phase(self, case: Case, watcher: Watcher, name: str, count: int) -> LoopResult:
        async def send(_number: int, prompt: Prompt) -> Outcome:
            return await self._send(case, prompt)

        watcher.begin(name, count)
        return await closed_loop(
            list(islice(self._prompts, count)),
            concurrency=case.concurrency,
            send=send,
            on_outcome=watcher.outcome,
        )

    async def _send(self, case: Case, prompt: Prompt) -> Outcome:
        expected = self._load.expected(case, prompt)
        body = request_body(self._target, expected, prompt.fields, 0.0)
        return await trace(self._session, self._target, body, expected)


async def round_trip_ms(session: aiohttp.ClientSession, base_url: str) -> float | None:
    """What a request costs that the server does nothing for, on a connection that is open: the
    median of some, while nothing else runs. None where the server has no such path."""
    url, spent = base_url.removesuffix("/v1") + "/healthz", []
    for _ in range(_ROUND_TRIPS + 1):
        start = perf_counter()
        try:
            async with session.get(url) as response:
                await response.read()
        except aiohttp.ClientError:
            return None
        spent.append(1000 * (perf_counter() - start))
        if response.status != 200:
            return None
    return median(spent[1:])  # the first opened the connection
