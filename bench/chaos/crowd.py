"""Clients that ask all the time, and wait as they are told when the server can't answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from bench.chaos.exchange import Ask, Client, Seen

# A server that is gone isn't asked thousands of times.
_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 15.0


async def crowd(
    client: Client,
    asks: Iterator[Ask],
    concurrency: int,
    told: Callable[[Seen], None],
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Send `asks`, so many at a time, until there are none left or it is `enough`."""

    async def one() -> None:
        for ask in asks:
            if enough():
                return
            seen = await client.ask(ask)
            told(seen)
            if not seen.status:
                await asyncio.sleep(_PAUSE_S)
            elif seen.retry_after_s and not enough():
                await asyncio.sleep(min(seen.retry_after_s, _LONGEST_PAUSE_S))

    await asyncio.gather(*(one() for _ in range(concurrency)))
