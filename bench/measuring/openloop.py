"""The open loop: requests are sent when they are due, whatever became of those before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from bench.client import Outcome
from bench.measuring.loop import Flight, LoopResult, Send
from bench.prompts.prompt import Prompt


async def open_loop(
    due: Iterable[tuple[Prompt, float]],
    *,
    send: Send,
    on_outcome: Callable[[Outcome], None],
    max_in_flight: int | None = None,
    duration_s: float | None = None,
) -> LoopResult:
    """Send each prompt at its time, in seconds from the start; none after `duration_s`.

    With `max_in_flight` others are in flight a request waits, and those after it, and is sent as
    late as that makes it. An interruption gives what had finished.
    """
    flight = Flight(send, on_outcome)
    room = asyncio.Semaphore(max_in_flight) if max_in_flight is not None else None

    async def one(prompt: Prompt, due_s: float) -> None:
        await flight.fly(prompt, due_s)
        if room is not None:
            room.release()

    async def loop(group: asyncio.TaskGroup) -> None:
        waiting, held = iter(due), False
        for prompt, due_s in waiting:
            if duration_s is not None and due_s >= duration_s:
                return
            held = held and flight.passed_s > due_s  # by the wait of the one before
            # Gives way to answers also where requests are overdue.
            await asyncio.sleep(max(0.0, due_s - flight.passed_s))
            if room is not None:
                held = held or room.locked()
                flight.result.held += held
                await room.acquire()
                if duration_s is not None and flight.passed_s >= duration_s:
                    flight.result.unsent = 1 + _due_before(waiting, duration_s)
                    return
            group.create_task(one(prompt, due_s))

    return await flight.end(loop)


def _due_before(waiting: Iterator[tuple[Prompt, float]], end_s: float) -> int:
    count = 0
    for _, due_s in waiting:
        if due_s >= end_s:
            break
        count += 1
    return count
