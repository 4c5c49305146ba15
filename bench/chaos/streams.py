"""Long streams that are all being given when something happens to their engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from bench.chaos.exchange import Ask, Client, Seen
from bench.errors import BenchError

_BEGUN_S: Final = 60.0
_POLL_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams and the tasks that read them."""

    seen: Sequence[Seen]
    readers: Sequence[asyncio.Task[None]]

    async def begun(self) -> None:
        """Return once each has had its first event, or has ended. Raises BenchError."""
        since = perf_counter()
        while not all(one.first_at or one.ended_at for one in self.seen):
            if perf_counter() - since > _BEGUN_S:
                raise BenchError(f"not all streams had begun after {_BEGUN_S:g} s")
            await asyncio.sleep(_POLL_S)

    async def ended(self) -> None:
        await asyncio.gather(*self.readers)


@contextmanager
def streaming(client: Client, asks: Sequence[Ask]) -> Iterator[Streams]:
    """Streams of `asks`, hung up on leaving."""
    seen = [Seen(ask, perf_counter()) for ask in asks]
    readers = [asyncio.create_task(client.follow(one)) for one in seen]
    try:
        yield Streams(seen, readers)
    finally:
        for reader in readers:
            reader.cancel()
