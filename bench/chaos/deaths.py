"""The engine core is killed under its streams, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Final

from bench.chaos.books import check_answers, check_rows, check_sums, engine_tokens
from bench.chaos.exchange import Ask, Client, Seen, seen_as
from bench.chaos.findings import Found, spread
from bench.chaos.held import Held
from bench.chaos.load import used
from bench.chaos.server import KEEP_STARTING, Gateway, Place, running
from bench.chaos.streams import streaming
from bench.chaos.traffic import Traffic

END_S: Final = 2.0
_LEFT_S: Final = 10.0
_POLL_S: Final = 0.1


class Deaths:
    """Each time `streams` of `tokens` tokens each are being given.

    Without `resume` all of them have to end in an error; with it so has each fourth, which can't be
    continued exactly, and the others have to go on to the text they would have had anyway.
    """

    def __init__(self, place: Place, *, resume: bool, streams: int, tokens: int, seed: int) -> None:
        self._place = place
        self._resume = resume
        self._streams = streams
        self._tokens = tokens
        self._traffic = Traffic(place.model, seed)
        self._random = Random(seed)
        self._found = Found("deaths, resumed" if resume else "deaths")
        self._seen: list[Seen] = []
        self._ended_s: list[float] = []
        self._ready_s: list[float] = []
        self._ended = self._resumed = self._before = 0

    async def run(self, kills: int, told: Callable[[int, int], None]) -> Found:
        """`told` is given how many kills there have been, of how many. Raises BenchError."""
        found = self._found
        health = {**KEEP_STARTING, "resume_s": 120.0 if self._resume else 0.0}
        name = found.part.replace(", ", "-")
        gateway = self._place.configured(name, {"health": health})
        async with running(gateway) as client:
            held = await self._first(gateway, client)
            for number in range(1, kills + 1):
                await self._one(gateway, client)
                await gateway.until_idle(client)
                if number == 1 < kills:
                    # What is opened at first use, or for the first restart, isn't taken for a leak.
                    held = gateway.held()
                told(number, kills)
            after = await _settled(gateway, held)
            series = await gateway.metrics(client)
            summed, rows = await used(gateway), await gateway.rows()
        found.none_of(after.beyond(held), "held after the last restart")
        found.none_of(gateway.left, "processes left after the end")
        check_rows(found, self._seen, rows)
        check_answers(found, self._seen)
        check_sums(found, rows, summed, engine_tokens(series))
        found.figures |= {
            "kills": kills,
            "seen": seen_as(self._seen),
            "over_before_the_kill": self._before,
            "ended_in_an_error": self._ended,
            "ended_after_s": spread(self._ended_s),
            "resumed_exactly": self._resumed,
            "ready_again_s": spread(self._ready_s),
            "held": {"before": held.told(), "after": after.told()},
        }
        return found

    async def _first(self, gateway: Gateway, client: Client) -> Held:
        """A request, and what is held after it."""
        self._seen.append(await client.ask(self._traffic.long(8)))
        await gateway.until_idle(client)
        return gateway.held()

    async def _one(self, gateway: Gateway, client: Client) -> None:
        asks = [self._ask(number) for number in range(self._streams)]
        with streaming(client, asks) as streams:
            await streams.begun()
            await asyncio.sleep(self._random.uniform(0.0, 0.4))
            core = gateway.core()
            killed = perf_counter()
            core.kill()
            ready = asyncio.create_task(gateway.ready_again(client))
            await streams.ended()
            self._ready_s.append(await ready)
        self._seen += streams.seen
        for one in streams.seen:
            self._judge(one, killed)

    def _ask(self, number: int) -> Ask:
        penalty = {"presence_penalty": 0.5} if self._resume and number % 4 == 3 else {}
        return self._traffic.long(self._tokens, **penalty)

    def _judge(self, one: Seen, killed: float) -> None:
        found, after = self._found, one.ended_at - killed
        if after < 0:
            self._before += 1
        elif self._resume and one.ask.text is not None:
            self._resumed += one.answered and not one.altered
            found.require(one.answered, f"{one.request_id}: not resumed: {one.error or one.cut}")
        else:
            self._ended += 1
            self._ended_s.append(after)
            found.require(
                bool(one.error) and not one.whole and after <= END_S,
                f"{one.request_id}: ended after {after:.2f} s with [DONE]: {one.whole}, "
                f"error: {one.error or one.cut or None}",
            )


async def _settled(gateway: Gateway, before: Held) -> Held:
    """What it holds once that is no more than `before`, or after a while."""
    begun = perf_counter()
    while True:
        found = gateway.held()
        if not found.beyond(before) or perf_counter() - begun > _LEFT_S:
            return found
        await asyncio.sleep(_POLL_S)
