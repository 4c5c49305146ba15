"""The closed loop: always the same number of requests in flight, until there are no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter

from bench.client import Outcome
from bench.prompts.prompt import Prompt

Send = Callable[[int, Prompt], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent: its number, from 0 in the order of sending, and what became of it.

    `late_s` is how long after its intended time it was sent; 0 where it had none.
    """

    number: int
    outcome: Outcome
    late_s: float = 0.0


@dataclass(slots=True)
class LoopResult:
    """What came back. `duration_s` runs from the start, when a closed loop sends its first
    requests, to the last answer.

    `peak` is the most requests that were in flight at once; `busy_s` is the sum of the times
    that finished requests were in flight. `abandoned` were in flight at an interruption. In an
    open loop `held` requests had to wait for room, and `unsent` ones had none until the end.
    """

    sent: list[Sent] = field(default_factory=list)
    duration_s: float = 0.0
    peak: int = 0
    busy_s: float = 0.0
    abandoned: int = 0
    held: int = 0
    unsent: int = 0
    interrupted: bool = False

    @property
    def outcomes(self) -> list[Outcome]:
        return [one.outcome for one in self.sent]


class Flight:
    """Sends requests and keeps count of them."""

    def __init__(self, send: Send, on_outcome: Callable[[Outcome], None]) -> None:
        self.result = LoopResult()
        self.in_flight = 0
        self._send = send
        self._on_outcome = on_outcome
        self._number = 0
        self._start = perf_counter()

    @property
    def passed_s(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._start

    async def fly(self, prompt: Prompt, due_s: float | None = None) -> None:
        """Send one and wait for its answer; `due_s` is when that was to be."""
        result, number = self.result, self._number
        self._number += 1
        self.in_flight += 1
        result.peak = max(result.peak, self.in_flight)
        sent_s = self.passed_s
        late_s = 0.0 if due_s is None else max(0.0, sent_s - due_s)
        outcome = await self._send(number, prompt)
        result.busy_s += self.passed_s - sent_s
        self.in_flight -= 1
        result.sent.append(Sent(number, outcome, late_s))
        self._on_outcome(outcome)

    async def end(self, loop: Callable[[asyncio.TaskGroup], Awaitable[None]]) -> LoopResult:
        """Run a loop to its end.

        When the calling task is cancelled, running requests are dropped and the result holds what
        had finished; the cancellation ends here.
        """
        try:
            async with asyncio.TaskGroup() as group:
                await loop(group)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            self.result.interrupted = True
            self.result.abandoned = self.in_flight
        self.result.duration_s = self.passed_s
        return self.result


async def closed_loop(
    prompts: Iterable[Prompt],
    *,
    concurrency: int,
    send: Send,
    on_outcome: Callable[[Outcome], None],
    duration_s: float | None = None,
) -> LoopResult:
    """Send every prompt, each answer making room for the next; none after `duration_s`.

    An interruption gives what had finished.
    """
    flight = Flight(send, on_outcome)
    waiting = iter(prompts)

    async def client() -> None:
        # The next prompt is taken after the last answer, which it may go on from.
        while duration_s is None or flight.passed_s < duration_s:
            prompt = next(waiting, None)
            if prompt is None:
                return
            await flight.fly(prompt)

    async def loop(group: asyncio.TaskGroup) -> None:
        for _ in range(concurrency):
            group.create_task(client())

    return await flight.end(loop)
