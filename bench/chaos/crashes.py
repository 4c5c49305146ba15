"""The whole gateway is killed at random moments under load; what does its database say then?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Final

import psutil

from bench.chaos.books import Row, check_answers, check_rows
from bench.chaos.crowd import crowd
from bench.chaos.exchange import Ask, Client, Seen, seen_as
from bench.chaos.findings import Found, spread
from bench.chaos.held import gone
from bench.chaos.load import used
from bench.chaos.server import Place
from bench.chaos.traffic import Traffic
from bench.tiny.model import MAX_MODEL_LEN

_LEFT_S: Final = 10.0
_SIMULATED: Final = {"kind": "simulated", "max_model_len": MAX_MODEL_LEN}


class Crashes:
    """After each kill the next start has to find a sound file, and to know every request.

    A simulated engine, which starts at once, says something else than the model would.
    """

    def __init__(self, place: Place, *, simulated: bool, concurrency: int, seed: int) -> None:
        self._found = Found("crashes, simulated engine" if simulated else "crashes")
        settings = {"engine": _SIMULATED} if simulated else {}
        self._gateway = place.configured("crashes", settings)
        self._simulated = simulated
        self._traffic = Traffic(place.model, seed)
        self._random = Random(seed)
        self._concurrency = concurrency
        self._seen: list[Seen] = []
        self._starts: list[float] = []
        self._lost = 0

    async def run(self, kills: int, told: Callable[[int, int], None]) -> Found:
        """`told` is given how many kills there have been, of how many. Raises BenchError."""
        found, gateway = self._found, self._gateway
        rows: list[Row] = []
        try:
            self._starts.append(await gateway.start())
            for number in range(1, kills + 1):
                rows = await self._one(rows)
                told(number, kills)
            summed = await used(gateway)
        finally:
            await gateway.stop()
        check_rows(found, self._seen, rows)
        check_answers(found, self._seen)
        own = sum(row.prompt_tokens for row in rows), sum(row.completion_tokens for row in rows)
        found.require(own == summed, f"rows sum to {own}, but /admin/v1/usage says {summed}")
        found.figures |= {
            "kills": kills,
            "requests": len(self._seen),
            "seen": seen_as(self._seen),
            "rows": len(rows),
            "lost": self._lost,
            "start_s": spread(self._starts),
            "tokens": {"ledger": own, "usage": summed},
        }
        return found

    async def _one(self, before: list[Row]) -> list[Row]:
        """Load, kill, start again; returns all rows there are then."""
        found, gateway = self._found, self._gateway
        async with gateway.client() as client:
            seen, family = await self._killed(client)
        self._seen += seen
        found.none_of(await gone(family, _LEFT_S), "processes left by the killed gateway")
        for process in family:
            if process.is_running():
                process.kill()
        found.require(gateway.integrity() == "ok", f"integrity_check: {gateway.integrity()}")
        self._starts.append(await gateway.start())
        rows = await gateway.rows()
        by_id = {row.request_id: row for row in rows}
        found.none_of(
            (row.request_id for row in before if by_id.get(row.request_id) != row),
            "rows that a crash has changed",
        )
        running = [one for one in seen if one.status == 200 and one.cut and one.cut != "hung up"]
        wrong = ("rejected", "failed", "interrupted")
        found.none_of(
            (
                f"{one.request_id} {by_id[one.request_id].outcome}"
                for one in running
                if one.request_id in by_id and by_id[one.request_id].outcome in wrong
            ),
            "answers that a crash cut off, whose row says something else",
        )
        self._lost = sum(row.outcome == "lost" for row in rows)
        return rows

    async def _killed(self, client: Client) -> tuple[list[Seen], list[psutil.Process]]:
        """What the clients saw until then, and what was below the gateway."""
        seen, over = list[Seen](), asyncio.Event()
        clients = asyncio.create_task(
            crowd(client, self._endless(), self._concurrency, seen.append, over.is_set)
        )
        await asyncio.sleep(self._random.uniform(0.3, 3.0))
        over.set()
        family = await self._gateway.kill()
        await clients
        return seen, family

    def _endless(self) -> Iterator[Ask]:
        while True:
            ask = self._traffic.draw()
            yield replace(ask, text=None) if self._simulated else ask
