"""How late the client's event loop is: what it times can be wrong by as much."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

_EVERY_S = 0.02


@contextmanager
def loop_lag() -> Iterator[list[float]]:
    """Ticks every 20 ms; the list has how many seconds each tick came late."""
    loop = asyncio.get_running_loop()
    late: list[float] = []
    due = loop.time() + _EVERY_S
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal due, timer
        now = loop.time()
        late.append(max(0.0, now - due))
        due = now + _EVERY_S
        timer = loop.call_at(due, tick)

    timer = loop.call_at(due, tick)
    try:
        yield late
    finally:
        timer.cancel()
