"""What is done to a server: alone, under a flood, and with everybody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from bench.errors import BenchError
from bench.tenancy.attempt import Attempt, faults_of
from bench.tenancy.crowd import Crowd, Shape, Tenant, Writer
from bench.tenancy.servers import Subject

OnAttempt = Callable[[Attempt], None]
# Of a time in which everybody waits, so much goes by before service is compared.
SETTLING = 0.25
_FINISH_S = 120.0
_CALM_S = 120.0
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a server does when it is always full: requests and total tokens a second."""

    requests_per_s: float
    tokens_per_s: float
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quiet:
    """What the quiet tenant saw, TTFT in seconds; and what became of the flood, if there was one.

    `late` were still waiting when the flood ended, and had it easier from then on: their TTFT is
    at least what is told. `unanswered` of them hung up in the end. `faults` are those of both; that
    the flood's clients hang up when it ends is none.
    """

    ttft_s: tuple[float, ...]
    refused: int
    late: int
    faults: tuple[str, ...]
    unanswered: int = 0
    flood_sent: int = 0
    flood_answered: int = 0
    flood_refused: int = 0
    client_cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Shared:
    """Service (prompt + 2 x completion tokens) of each tenant while all of them waited, its course
    over the time, and total tokens a second."""

    service: dict[str, float]
    tokens_per_s: float
    course: dict[str, list[tuple[float, float]]] = field(repr=False)
    faults: tuple[str, ...] = ()

    @property
    def shares(self) -> dict[str, float]:
        whole = sum(self.service.values()) or 1.0
        return {name: service / whole for name, service in self.service.items()}


class Stage:
    """One server, and the requests that are written for it."""

    def __init__(
        self, session: aiohttp.ClientSession, subject: Subject, shape: Shape, seed: int
    ) -> None:
        self.name = subject.name
        self.subject = subject
        self._session = session
        self._writer = Writer(subject.target, subject.vocabulary, shape, seed)

    def crowd(self, on_attempt: OnAttempt = lambda _attempt: None) -> Crowd:
        return Crowd(self._session, self.subject.target.url, self._writer, on_attempt)

    async def capacity(
        self, tenant: Tenant, at_once: int, seconds: float, on_attempt: OnAttempt
    ) -> Capacity:
        """What it does with so many requests at once. Raises BenchError: it answers none."""
        crowd = self.crowd(on_attempt)
        await crowd.keep(tenant, at_once, seconds)
        await crowd.finish(within_s=_FINISH_S)
        start = crowd.started_at + SETTLING * seconds
        end = crowd.started_at + seconds
        whole = [one for one in crowd.attempts if one.answered]
        tokens = sum(one.tokens(start, end) for one in whole) / (end - start)
        faults = faults_of(crowd.attempts)
        if not tokens:
            reason = faults[0] if faults else "all were refused, or it took longer"
            raise BenchError(f"{self.name} answered nothing: {reason}")
        sizes = [one.prompt_tokens + one.completion_tokens for one in whole]
        return Capacity(tokens * len(sizes) / sum(sizes), tokens, tuple(faults))

    async def quiet(
        self,
        quiet: Tenant,
        rate: float,
        seconds: float,
        seed: int,
        flood: tuple[Tenant, float] | None,
        on_attempt: OnAttempt,
    ) -> Quiet:
        """The quiet tenant's requests, the same for the same seed; with `flood` beside another
        tenant that sends so many a second."""
        crowd = self.crowd(on_attempt)
        if flood is None:
            await crowd.arrive(quiet, rate, seconds, seed)
        else:
            await asyncio.gather(
                crowd.arrive(quiet, rate, seconds, seed),
                crowd.arrive(flood[0], flood[1], seconds, seed + 1),
            )
        cpu = crowd.cpu_share()
        late = crowd.in_flight(quiet.name)
        if flood is not None:
            await crowd.finish(flood[0].name, within_s=0)
        await crowd.finish(quiet.name, within_s=_FINISH_S)
        await self._calm(quiet)
        mine = [one for one in crowd.attempts if one.tenant == quiet.name]
        others = [one for one in crowd.attempts if one.tenant != quiet.name]
        return Quiet(
            ttft_s=tuple(one.ttft_s for one in mine if one.ttft_s is not None),
            refused=sum(one.refused for one in mine),
            late=late,
            faults=tuple(faults_of([*mine, *(one for one in others if not one.hung_up)])),
            unanswered=sum(one.hung_up for one in mine),
            flood_sent=len(others),
            flood_answered=sum(one.answered for one in others),
            flood_refused=sum(one.refused for one in others),
            client_cpu=cpu,
        )

    async def shared(
        self, tenants: Sequence[Tenant], at_once: int, seconds: float, on_attempt: OnAttempt
    ) -> Shared:
        """Every tenant keeps `at_once` requests going, more than the server takes."""
        crowd = self.crowd(on_attempt)
        await asyncio.gather(*(crowd.keep(one, at_once, seconds) for one in tenants))
        await crowd.finish(within_s=_FINISH_S)
        start = crowd.started_at + SETTLING * seconds
        end = crowd.started_at + seconds
        by_tenant = {
            one.name: [seen for seen in crowd.attempts if seen.tenant == one.name]
            for one in tenants
        }
        service = {
            name: sum(one.service(start, end) for one in seen) for name, seen in by_tenant.items()
        }
        tokens = sum(one.tokens(start, end) for one in crowd.attempts) / (end - start)
        return Shared(
            service,
            tokens,
            _courses(by_tenant, crowd.started_at, seconds),
            tuple(faults_of(crowd.attempts)),
        )

    async def _calm(self, tenant: Tenant) -> None:
        """Return once a request is answered again, the server having seen that all have left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CALM_S):
                while True:
                    if (await self.crowd().ask(tenant)).answered:
                        return
                    await asyncio.sleep(_POLL_S)


def expected_shares(tenants: Sequence[Tenant]) -> dict[str, float]:
    """What weights promise to tenants that all wait."""
    whole = sum(one.weight for one in tenants)
    return {one.name: one.weight / whole for one in tenants}


def _courses(
    by_tenant: Mapping[str, Sequence[Attempt]], start: float, seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """Service so far of each tenant, sampled a hundred times."""
    found = {}
    for name, seen in by_tenant.items():
        begun = [one for one in seen if one.times]
        gains = [(one.times[0], float(one.prompt_tokens)) for one in begun]
        for one in begun:
            gain = 2.0 * one.completion_tokens / len(one.times)
            gains += [(at, gain) for at in one.times]
        gains.sort()
        course, total, place = [], 0.0, 0
        for step in range(101):
            at = start + seconds * step / 100
            while place < len(gains) and gains[place][0] <= at:
                total += gains[place][1]
                place += 1
            course.append((seconds * step / 100, total))
        found[name] = course
    return found
