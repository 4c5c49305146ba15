"""The closed loop: always the same number of requests in flight, until there are no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter

from bench.client import Outcome

Send = Callable[[bytes], Awaitable[Outcome]]


@dataclass(slots=True)
class LoopResult:
    """What came back. `duration_s` runs from the first request sent to the last answer.

    `peak` is the most requests that were in flight at once; `busy_s` is the sum of the times
    that finished requests were in flight. `abandoned` were in flight at an interruption.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    duration_s: float = 0.0
    peak: int = 0
    busy_s: float = 0.0
    abandoned: int = 0
    interrupted: bool = False


async def closed_loop(
    bodies: Iterable[bytes],
    *,
    concurrency: int,
    send: Send,
    on_outcome: Callable[[Outcome], None],
) -> LoopResult:
    """Send every body, each answer making room for the next.

    When the calling task is cancelled, running requests are dropped and the result holds what
    had finished; the cancellation ends here.
    """
    result = LoopResult()
    waiting = iter(bodies)
    in_flight = 0

    async def worker() -> None:
        nonlocal in_flight
        for body in waiting:
            in_flight += 1
            result.peak = max(result.peak, in_flight)
            sent = perf_counter()
            outcome = await send(body)
            result.busy_s += perf_counter() - sent
            in_flight -= 1
            result.outcomes.append(outcome)
            on_outcome(outcome)

    start = perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        result.interrupted = True
        result.abandoned = in_flight
    result.duration_s = perf_counter() - start
    return result
