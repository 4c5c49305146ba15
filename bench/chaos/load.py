"""Thousands of mixed requests while the engine core is killed now and then: do the books add up?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from time import perf_counter

from bench.chaos.books import check_answers, check_begun, check_rows, check_sums, engine_tokens
from bench.chaos.crowd import crowd
from bench.chaos.exchange import Ask, Client, Seen, seen_as
from bench.chaos.findings import Found, spread
from bench.chaos.server import Gateway, Place, running
from bench.chaos.traffic import Traffic
from bench.errors import BenchError


async def load(
    place: Place,
    *,
    requests: int,
    concurrency: int,
    kills: int,
    seed: int,
    told: Callable[[int, int], None],
) -> Found:
    """`told` is given how many requests have ended, of how many. Raises BenchError."""
    found, seen = Found("load"), list[Seen]()
    gateway = place.configured("load", {})
    traffic = Traffic(place.model, seed)
    async with running(gateway) as client:
        begun = perf_counter()
        killer = _Killer(gateway, requests, kills)

        def note(one: Seen) -> None:
            seen.append(one)
            killer.look(client, len(seen))
            told(len(seen), requests)

        await crowd(client, _drawn(traffic, requests), concurrency, note)
        took_s = perf_counter() - begun
        await killer.over()
        await gateway.until_ready(client, place.start_timeout_s)
        await gateway.until_idle(client)
        summed = await used(gateway)
        series = await gateway.metrics(client)
        rows = await gateway.rows()
    found.figures |= {
        "requests": len(seen),
        "seconds": round(took_s, 1),
        "kills": len(killer.restarts),
        "ready_again_s": spread(killer.restarts),
        "seen": seen_as(seen),
        "rows": len(rows),
        "ids_known": sum(bool(one.request_id) for one in seen),
        "gateway_tokens": [
            int(series.get(f"gateway_{kind}_tokens_total", 0)) for kind in ("prompt", "generation")
        ],
    }
    check_rows(found, seen, rows)
    check_begun(found, rows, series)
    check_answers(found, seen)
    check_sums(found, rows, summed, engine_tokens(series))
    found.none_of((one.cut for one in seen if one.cut not in ("", "hung up")), "answers cut off")
    found.require(gateway.integrity() == "ok", f"integrity_check: {gateway.integrity()}")
    return found


async def used(gateway: Gateway) -> tuple[int, int]:
    """Prompt and completion tokens as `/admin/v1/usage` sums them. Raises BenchError."""
    async with gateway.administrator() as client:
        status, text = await client.get("/admin/v1/usage?by=outcome", timeout_s=30)
    if status != 200:
        raise BenchError(f"/admin/v1/usage: HTTP {status}: {text}")
    groups = json.loads(text)["data"]
    return (
        sum(group["prompt_tokens"] for group in groups),
        sum(group["completion_tokens"] for group in groups),
    )


def _drawn(traffic: Traffic, requests: int) -> Iterator[Ask]:
    return (traffic.draw() for _ in range(requests))


class _Killer:
    """Kills the core evenly over the requests; `restarts` are how soon it was ready each time."""

    def __init__(self, gateway: Gateway, requests: int, kills: int) -> None:
        self.restarts: list[float] = []
        self._gateway = gateway
        self._due = [requests * number // (kills + 1) for number in range(1, kills + 1)]
        self._killing: asyncio.Task[None] | None = None

    def look(self, client: Client, done: int) -> None:
        """So many requests have ended. Never two kills at a time."""
        if self._due and done >= self._due[0] and (not self._killing or self._killing.done()):
            self._due.pop(0)
            self._killing = asyncio.create_task(self._kill(client))

    async def over(self) -> None:
        """Return once it is ready after the last kill. Raises BenchError."""
        if self._killing is not None:
            await self._killing

    async def _kill(self, client: Client) -> None:
        self._gateway.core().kill()
        self.restarts.append(await self._gateway.ready_again(client))
