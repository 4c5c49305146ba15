"""The engine core is stopped with work inside, and goes on later."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from time import perf_counter
from typing import Final

from bench.chaos.books import check_answers, check_rows, check_sums, engine_tokens
from bench.chaos.exchange import Client, Seen, seen_as
from bench.chaos.findings import Found, spread
from bench.chaos.load import used
from bench.chaos.server import Gateway, Place, running
from bench.chaos.streams import streaming
from bench.chaos.traffic import Traffic

NOTICED_S: Final = 5.0
_STOPPED_S: Final = 7.0
_POLL_S: Final = 0.01


async def freeze(
    place: Place,
    *,
    times: int,
    streams: int,
    tokens: int,
    seed: int,
    told: Callable[[int, int], None],
) -> Found:
    """`told` is given how often it was stopped, of how often. Raises BenchError."""
    found, traffic, seen = Found("freeze"), Traffic(place.model, seed), list[Seen]()
    noticed, back = list[float](), list[float]()
    gateway = place.configured("freeze", {})
    async with running(gateway) as client:
        for number in range(1, times + 1):
            with streaming(client, [traffic.long(tokens) for _ in range(streams)]) as live:
                await live.begun()
                unready = await _stopped(gateway, client, back)
                found.require(
                    unready is not None, f"stopped for {_STOPPED_S:g} s, but /readyz said ready"
                )
                inside = sum(not one.ended_at for one in live.seen)
                found.require(inside > 0, "every stream was over before the stop")
                await live.ended()
            if unready is not None:
                noticed.append(unready)
            seen += live.seen
            told(number, times)
        await gateway.until_idle(client)
        series, summed = await gateway.metrics(client), await used(gateway)
        rows = await gateway.rows()
    found.require(max(noticed, default=0) <= NOTICED_S, f"noticed only after {max(noticed)} s")
    found.none_of(
        (f"{one.request_id} {one.error or one.cut}" for one in seen if not one.answered),
        "streams that didn't go on",
    )
    check_rows(found, seen, rows)
    check_answers(found, seen)
    check_sums(found, rows, summed, engine_tokens(series))
    found.figures |= {
        "times": times,
        "noticed_after_s": spread(noticed),
        "ready_after_cont_s": spread(back),
        "seen": seen_as(seen),
    }
    return found


async def _stopped(gateway: Gateway, client: Client, back: list[float]) -> float | None:
    """Stop the core for a while; how soon that was noticed, None: never. Notes how soon it was
    ready again."""
    core, noticed = gateway.core(), None
    begun = perf_counter()
    core.send_signal(signal.SIGSTOP)
    try:
        while (passed := perf_counter() - begun) < _STOPPED_S:
            if noticed is None and (await client.get("/readyz"))[0] == 503:
                noticed = perf_counter() - begun
            await asyncio.sleep(_POLL_S if noticed is None else _STOPPED_S - passed)
    finally:
        core.send_signal(signal.SIGCONT)
    back.append(await gateway.until_ready(client, 30))
    return noticed
