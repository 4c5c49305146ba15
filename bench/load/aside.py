"""A run of the load generator that Ctrl-C can end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from bench.load.generator import Result, run
from bench.load.outcome import Request


async def run_aside(
    base_url: str,
    path: str,
    requests: Sequence[Request],
    *,
    concurrency: int,
    on_progress: Callable[[int], None],
) -> Result:
    """`bench.load.run` in a thread of its own, for the event loop to see signals meanwhile.

    When it is cancelled nothing more is sent; what is in flight ends with the server.
    """
    cancelled = threading.Event()
    try:
        return await asyncio.to_thread(
            run,
            base_url,
            path,
            requests,
            concurrency=concurrency,
            on_progress=on_progress,
            stop=cancelled.is_set,
        )
    finally:
        cancelled.set()
