"""Clients of tenants: they arrive whether or not there is room, or keep some requests going."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import aiohttp

from bench.client import Expected, Target, request_body
from bench.prompts.workload import Vocabulary, write_drafts
from bench.tenancy.attempt import Attempt, Request, attempt

_BATCH = 64
_UNADVISED_S = 1.0
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks. `api_key` None: the server can't tell tenants apart."""

    name: str
    api_key: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Prompt tokens of each request, about, and completion tokens: each has half as many to half as
    many more, for where all are equally long they start and end together, in waves."""

    input_tokens: int
    output_tokens: int


class Writer:
    """Requests, none like another for long."""

    def __init__(self, target: Target, vocabulary: Vocabulary, shape: Shape, seed: int) -> None:
        self._target = target
        self._shape = shape
        self._vocabulary = vocabulary
        self._seed = seed
        self._drafts = self._written()

    def request(self, output_tokens: int | None = None) -> Request:
        """One with an answer of so many tokens; None: of a length drawn as the shape has it."""
        fields, length = next(self._drafts)
        expected = Expected(self._shape.input_tokens, output_tokens or length, True, _PATIENCE_S)
        body = request_body(self._target, expected, fields, 0.0)
        return Request(body, expected.completion_tokens)

    def _written(self) -> Iterator[tuple[dict[str, Any], int]]:
        rng, mean = random.Random(self._seed), self._shape.output_tokens
        while True:
            self._seed += 1
            drafts = write_drafts(
                self._vocabulary,
                input_tokens=self._shape.input_tokens,
                count=_BATCH,
                seed=self._seed,
            )
            for draft in drafts:
                length = rng.randint(mean - mean // 2, mean + mean // 2)
                yield draft.fields(self._vocabulary.layout), length


class Crowd:
    """Sends the requests of one phase, and keeps what came of them in `attempts`, of those hung up
    on too.

    `advised` are clients that wait as long as a refusal advised.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        writer: Writer,
        on_attempt: Callable[[Attempt], None] = lambda _attempt: None,
    ) -> None:
        self.attempts: list[Attempt] = []
        self.started_at = perf_counter()
        self._cpu = process_time()
        self._session = session
        self._url = url
        self._writer = writer
        self._on_attempt = on_attempt
        self._clients: dict[asyncio.Task[object], str] = {}
        self._waiting: set[asyncio.Task[Any]] = set()
        self._in_flight: dict[str, int] = {}
        self._given_up = False

    @property
    def advised(self) -> int:
        return len(self._waiting)

    def in_flight(self, tenant: str) -> int:
        return self._in_flight.get(tenant, 0)

    def cpu_share(self) -> float:
        """Of one core, used by this process since the phase began."""
        return (process_time() - self._cpu) / max(perf_counter() - self.started_at, 1e-9)

    async def arrive(
        self, tenant: Tenant, rate: float, seconds: float, seed: int, *, retries: int = 0
    ) -> None:
        """Poisson arrivals for so long, `rate` a second, whatever happens to them.

        Each may come back `retries` times after a refusal, when that advised to.
        """
        rng = random.Random(seed)
        at = start = perf_counter()
        while (at := at + rng.expovariate(rate)) < start + seconds:
            await asyncio.sleep(max(0.0, at - perf_counter()))
            self._begin(tenant.name, self._client(tenant, retries))
        await asyncio.sleep(max(0.0, start + seconds - perf_counter()))

    async def keep(
        self,
        tenant: Tenant,
        at_once: int,
        seconds: float,
        *,
        retries: int = 0,
        ramp_s: float = 0.0,
    ) -> None:
        """So many clients for so long, who come one after the other within `ramp_s`; each asks
        again when it was answered, or has waited after its last refusal."""
        start = perf_counter()
        end = start + seconds

        async def client() -> None:
            while True:
                last = await self._client(tenant, retries)
                if last.refused and not self._given_up:
                    await self._as_advised(last)
                if perf_counter() >= end:
                    return

        for number in range(at_once):
            comes_at = start + number / at_once * ramp_s
            if comes_at >= end:
                break
            if ramp_s:
                await asyncio.sleep(max(0.0, comes_at - perf_counter()))
            self._begin(tenant.name, client())
        await asyncio.sleep(max(0.0, end - perf_counter()))

    async def ask(self, tenant: Tenant, output_tokens: int | None = None) -> Attempt:
        """One request, as `Writer.request` writes it, which obeys nothing."""
        return await self._attempt(tenant, self._writer.request(output_tokens), 0)

    async def finish(self, tenant: str | None = None, within_s: float = _PATIENCE_S) -> None:
        """Wait for the clients (of `tenant`); those that are left hang up."""
        mine = [task for task, name in self._clients.items() if tenant in (None, name)]
        if not mine:
            return
        _, late = await asyncio.wait(mine, timeout=within_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)

    def _begin(self, tenant: str, client: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(client)
        self._clients[task] = tenant
        task.add_done_callback(lambda done: self._clients.pop(done, None))

    def give_up(self) -> None:
        """Clients that are refused, or wait as advised, don't come back."""
        self._given_up = True
        for task in list(self._waiting):
            task.cancel()

    async def _client(self, tenant: Tenant, retries: int) -> Attempt:
        request = self._writer.request()
        last = await self._attempt(tenant, request, 0)
        for retried in range(1, retries + 1):
            if not last.refused or self._given_up:
                break
            await self._as_advised(last)
            last = await self._attempt(tenant, request, retried)
        return last

    async def _as_advised(self, refusal: Attempt) -> None:
        advice = refusal.retry_after_s
        task = asyncio.current_task()
        if task is not None:
            self._waiting.add(task)
        try:
            await asyncio.sleep(_UNADVISED_S if advice is None else advice)
        finally:
            if task is not None:
                self._waiting.discard(task)

    async def _attempt(self, tenant: Tenant, request: Request, retried: int) -> Attempt:
        self._in_flight[tenant.name] = self.in_flight(tenant.name) + 1
        try:
            found = await attempt(
                self._session,
                self._url,
                request,
                tenant=tenant.name,
                api_key=tenant.api_key,
                timeout_s=_PATIENCE_S,
                retries=retried,
                on_hung_up=self._note,
            )
        finally:
            self._in_flight[tenant.name] -= 1
        self._note(found)
        return found

    def _note(self, found: Attempt) -> None:
        self.attempts.append(found)
        self._on_attempt(found)
