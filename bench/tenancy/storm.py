"""Far more load than a server can take: what it keeps up, what it says, how it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from time import perf_counter

import psutil

from bench.servers.server import ChildServer
from bench.tenancy.attempt import Attempt, faults_of
from bench.tenancy.crowd import Crowd, Tenant
from bench.tenancy.phases import Stage
from bench.utilization.process import memory

_WARMUP_S = 5.0
_PROBES = 12
# One alone may have no text, and so no time.
_PROBE_TOKENS = 4
_ROW = 3
_PROBE_GAP_S = 0.1
_SAMPLE_S = 0.5
_LAG_S = 0.02
_FINISH_S = 60.0


@dataclass(frozen=True, slots=True)
class Slo:
    """What makes an answer good: seconds to the first token, and for each one after it."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """`times` the capacity for `seconds`. Open: clients arrive at that rate; closed: so many times
    as many clients as there are seats, who come within `ramp_s`, each ask again and again. Either
    obeys a refusal's advice and comes back `retries` times."""

    times: float
    seconds: float
    retries: int
    closed: bool
    ramp_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """At `at` seconds of the load: good answers and refusals a second, resident MiB."""

    at: float
    good_per_s: float
    refused_per_s: float
    rss_mib: float | None


@dataclass(slots=True)
class Storm:
    """What one server did. Times in seconds; None: it didn't come to it.

    `disguised` are refusals by an event in a stream that had begun with 200. `places` are the
    attempts that were let in; `first_retries` those that came back once, `first_kept` those of
    them that were let in. `gave_up` still waited as advised when the load ended, `left_waiting` for
    an answer; `unanswered` of these hung up in the end, and are in `ttft_s` with the time waited.
    `recovered_s` is from the load's end until answers came as quickly as before, for which
    `recovery_s` were given. `faults` are of all phases.
    """

    capacity_per_s: float
    peak_good_per_s: float
    calm_ttft_s: float
    good_per_s: float = 0.0
    sent: int = 0
    answered: int = 0
    refused: int = 0
    unadvised: int = 0
    disguised: int = 0
    places: int = 0
    first_retries: int = 0
    first_kept: int = 0
    gave_up: int = 0
    left_waiting: int = 0
    unanswered: int = 0
    ttft_s: list[float] = field(default_factory=list)
    reject_s: list[float] = field(default_factory=list)
    advice_s: list[float] = field(default_factory=list)
    course: list[Point] = field(default_factory=list)
    rss_growth_mib: float | None = None
    rss_after_mib: float | None = None
    recovered_s: float | None = None
    recovery_s: float = 0.0
    client_cpu: float = 0.0
    client_lag_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def first_retry_share(self) -> float | None:
        """Of those who came back as advised, who was let in."""
        return self.first_kept / self.first_retries if self.first_retries else None

    @property
    def possible_share(self) -> float | None:
        """What that could have been at most: had every place gone to a first retry."""
        return min(1.0, self.places / self.first_retries) if self.first_retries else None


async def storm(
    stage: Stage,
    tenant: Tenant,
    seats: int,
    peak_s: float,
    load: Load,
    slo: Slo,
    recovery_s: float,
    on_phase: Callable[[str, float], None],
    on_attempt: Callable[[Attempt], None],
) -> Storm:
    """Measure calm and peak, overload, and watch it come back. Raises BenchError."""
    warmup_s = min(_WARMUP_S, peak_s)
    on_phase("warm-up", warmup_s)
    warm = await stage.capacity(tenant, seats, warmup_s, on_attempt)
    calm = [await stage.crowd().ask(tenant, _PROBE_TOKENS) for _ in range(_PROBES)]
    on_phase("peak", peak_s)
    seen: list[Attempt] = []

    def at_peak(one: Attempt) -> None:
        seen.append(one)
        on_attempt(one)

    peak = await stage.capacity(tenant, seats, peak_s, at_peak)
    whole = [one for one in seen if one.answered]
    good = sum(one.meets(slo.ttft_s, slo.tpot_s) for one in whole) / len(whole)
    found = Storm(
        peak.requests_per_s,
        peak.requests_per_s * good,
        max(one.ttft_s or 0.0 for one in calm),
        recovery_s=recovery_s,
        faults=[*warm.faults, *faults_of(calm), *peak.faults],
    )
    on_phase("overload", load.seconds)
    await _overload(stage, tenant, seats, load, slo, found, on_phase, on_attempt)
    return found


async def _overload(
    stage: Stage,
    tenant: Tenant,
    seats: int,
    load: Load,
    slo: Slo,
    found: Storm,
    on_phase: Callable[[str, float], None],
    on_attempt: Callable[[Attempt], None],
) -> None:
    child = stage.subject.child
    before = _rss_mib(child)
    crowd = stage.crowd(on_attempt)
    async with _sampled(crowd, child, slo, found):
        if load.closed:
            clients = round(load.times * seats)
            await crowd.keep(
                tenant, clients, load.seconds, retries=load.retries, ramp_s=load.ramp_s
            )
        else:
            rate = load.times * found.capacity_per_s
            await crowd.arrive(tenant, rate, load.seconds, 1, retries=load.retries)
    found.client_cpu = crowd.cpu_share()
    end = perf_counter()
    found.gave_up, found.left_waiting = crowd.advised, crowd.in_flight(tenant.name)
    crowd.give_up()
    on_phase("recovery", found.recovery_s)
    await _recover(stage, tenant, end, found)
    await crowd.finish(within_s=0 if found.recovered_s is None else _FINISH_S)
    after = _rss_mib(child)
    if before is not None and after is not None:
        seen = [point.rss_mib for point in found.course if point.rss_mib is not None]
        found.rss_growth_mib, found.rss_after_mib = max(*seen, after) - before, after - before
    _count(crowd, slo, load.seconds, end, found)


def _count(crowd: Crowd, slo: Slo, seconds: float, end: float, found: Storm) -> None:
    seen = [one for one in crowd.attempts if one.sent_at < end]
    # While it fills, nothing is finished yet.
    start = end - 0.9 * seconds
    found.good_per_s = sum(
        one.meets(slo.ttft_s, slo.tpot_s) for one in seen if start <= one.ended_at < end
    ) / (end - start)
    found.sent = len(seen)
    found.answered = sum(one.answered for one in seen)
    refused = [one for one in seen if one.refused]
    found.refused = len(refused)
    found.unadvised = sum(one.retry_after_s is None for one in refused)
    found.disguised = sum(one.disguised for one in refused)
    found.reject_s = sorted(one.ended_at - one.sent_at for one in refused)
    found.advice_s = sorted(one.retry_after_s for one in refused if one.retry_after_s is not None)
    found.ttft_s = sorted(one.ttft_s for one in seen if one.ttft_s is not None)
    found.unanswered = sum(one.hung_up for one in seen)
    found.places = sum(_let_in(one) for one in seen)
    first = [one for one in seen if one.retries == 1]
    found.first_retries = len(first)
    found.first_kept = sum(_let_in(one) for one in first)
    lost = found.recovered_s is not None or not _moves(crowd, end + found.recovery_s / 2)
    found.faults += faults_of([one for one in crowd.attempts if lost or not one.hung_up])


def _let_in(one: Attempt) -> bool:
    """As far as is known: nothing came of who hung up before any text."""
    return not one.refused and (bool(one.times) or not one.hung_up)


def _moves(crowd: Crowd, since: float) -> bool:
    """Whether anybody was still served: who is then left is late, and not forgotten."""
    return any(one.times[-1] >= since for one in crowd.attempts if one.times)


async def _recover(stage: Stage, tenant: Tenant, end: float, found: Storm) -> None:
    """When the first of several probes in a row was sent that all were answered as in calm (half
    as much again), in seconds after `end`. They are short, so that the next is soon sent."""
    row: list[Attempt] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(found.recovery_s):
            while len(row) < _ROW:
                seen = await stage.crowd().ask(tenant, _PROBE_TOKENS)
                found.faults += faults_of([seen])
                row = [*row, seen] if seen.meets(1.5 * found.calm_ttft_s, inf) else []
                await asyncio.sleep(_PROBE_GAP_S)
    if len(row) == _ROW:
        found.recovered_s = max(row[0].sent_at - end, 0.0)


@asynccontextmanager
async def _sampled(
    crowd: Crowd, child: ChildServer | None, slo: Slo, found: Storm
) -> AsyncIterator[None]:
    """Notes how it goes on, and how late this process itself is."""
    tasks = [
        asyncio.create_task(_follow(crowd, child, slo, found.course)),
        asyncio.create_task(_lag(found.client_lag_s)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(crowd: Crowd, child: ChildServer | None, slo: Slo, course: list[Point]) -> None:
    start, seen = perf_counter(), 0
    last = start
    while True:
        await asyncio.sleep(_SAMPLE_S)
        new, now = crowd.attempts[seen:], perf_counter()
        seen += len(new)
        good = sum(one.meets(slo.ttft_s, slo.tpot_s) for one in new)
        refused = sum(one.refused for one in new)
        passed = now - last
        course.append(Point(now - start, good / passed, refused / passed, _rss_mib(child)))
        last = now


async def _lag(lags: list[float]) -> None:
    while True:
        asked = perf_counter()
        await asyncio.sleep(_LAG_S)
        lags.append(perf_counter() - asked - _LAG_S)


def _rss_mib(child: ChildServer | None) -> float | None:
    if child is None:
        return None
    try:
        return memory(child.pid).serving / 2**20
    except psutil.NoSuchProcess:
        return None
