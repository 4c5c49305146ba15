"""In which order a tenant's requests are started, and how many of its sequences run."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable

from gateway.admission import Demand

Turn = asyncio.Future[None]


class Starts:
    """Tells when a request is started before another of its tenant and class that asked sooner, and
    when a tenant runs more sequences than `cap`; a single request with more may run alone.

    Whoever asks has a number, and keeps it where it has to wait again.
    """

    def __init__(self, cap: int | None, violated: Callable[[str], None]) -> None:
        self._cap = cap
        self._violated = violated
        self._asked = 0
        self._waiting: dict[tuple[str, str], list[tuple[int, Turn]]] = defaultdict(list)
        self._running: Counter[str] = Counter()

    def ask(self) -> int:
        """The number of who asks for a place for the first time."""
        self._asked += 1
        return self._asked

    def wait(self, demand: Demand, number: int, turn: Turn) -> None:
        """It waits until its turn is done, and says then that it leaves."""
        insort(self._waiting[_line(demand)], (number, turn), key=_number)

    def leave(self, demand: Demand, number: int, turn: Turn) -> None:
        self._waiting[_line(demand)].remove((number, turn))

    def start(self, demand: Demand, number: int) -> None:
        """The engine is given it."""
        for other, turn in self._waiting[_line(demand)]:
            if other >= number:
                break
            if not turn.done():  # else it was let go, too, or has left, and hears of it later
                self._violated(
                    f"overtaken: {demand.tenant} waits with its request {other}, and {number} "
                    "was started"
                )
        running = self._running[demand.tenant]
        self._running[demand.tenant] += demand.sequences
        if self._cap is not None and running and running + demand.sequences > self._cap:
            self._violated(
                f"over-filled: {demand.tenant} runs {running + demand.sequences} sequences, "
                f"over the cap of {self._cap}"
            )

    def end(self, demand: Demand) -> None:
        """The engine has it no more."""
        self._running[demand.tenant] -= demand.sequences


def _line(demand: Demand) -> tuple[str, str]:
    return demand.tenant, demand.priority


def _number(waiting: tuple[int, Turn]) -> int:
    return waiting[0]
