"""Who was served how much, and whether that was fair: the bounds of the Virtual Token Counter.

Sheng et al., "Fairness in Serving Large Language Models" (arXiv 2401.00588), theorems 4.4 and 4.8:
over any interval in which two tenants both wait, what they are served, over their weights, differs
by at most 2 U; and a tenant that waits gets at most 4 U less than anybody. U is what a tenant can
be served after it was last chosen: one prompt, and the completions of an engine full of its
requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

PROMPT_COST = 1.0
COMPLETION_COST = 2.0
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Flow:
    """A tenant as fairness sees it: the most service that a prompt of it can be, and the most that
    one of its sequences can still become once it is started."""

    name: str
    weight: float
    batch: bool
    prompt: float
    sequence: float

    def quantum(self, room: int) -> float:
        return (self.prompt + room * self.sequence) / self.weight


class _Gap:
    """How far the difference of two services went up and down since both began to wait."""

    __slots__ = ("high", "low")

    def __init__(self, now: float) -> None:
        self.low = self.high = now

    def spread(self, now: float) -> float:
        self.low, self.high = min(self.low, now), max(self.high, now)
        return self.high - self.low


class FairnessWatch:
    """Counts service and waiting of each tenant, and tells when a bound is broken.

    `room` is how many sequences fit inside of the engine. `strict` is off where something else
    than fairness may hold a tenant back.
    """

    def __init__(
        self,
        flows: Iterable[Flow],
        room: int,
        violated: Callable[[str], None],
        *,
        strict: bool = True,
    ) -> None:
        self._flows = {flow.name: flow for flow in flows}
        self._violated = violated
        self._strict = strict
        self.service = dict.fromkeys(self._flows, 0.0)
        self.waiting = dict.fromkeys(self._flows, 0)
        self.largest = 0.0
        quantum = {name: flow.quantum(room) for name, flow in self._flows.items()}
        self._bounds = {
            (one, other): 2 * max(quantum[one], quantum[other])
            for one in quantum
            for other in quantum
        }
        self._both: dict[tuple[str, str], _Gap] = {}
        self._alone: dict[tuple[str, str], _Gap] = {}

    def serve(self, tenant: str, service: float) -> None:
        """`tenant` was served so much more (or less, where it was taken back)."""
        self.service[tenant] += service / self._flows[tenant].weight

    def wait(self, tenant: str) -> None:
        """One more request of `tenant` waits in the queue."""
        self.waiting[tenant] += 1
        if self.waiting[tenant] == 1:
            self.look()
            self._open(tenant)

    def leave(self, tenant: str) -> None:
        """One of the requests of `tenant` does not wait any more."""
        self.waiting[tenant] -= 1
        if not self.waiting[tenant]:
            self.look()
            for both in [pair for pair in self._both if tenant in pair]:
                del self._both[both]
            for alone in [pair for pair in self._alone if pair[0] == tenant]:
                del self._alone[alone]

    def restart(self) -> None:
        """Forget the intervals: the engine died, and what it had is served again or never."""
        self._both.clear()
        self._alone.clear()
        for name in self._flows:
            if self.waiting[name]:
                self._open(name)

    def look(self) -> None:
        """Compare every open interval with its bound."""
        service = self.service
        for (one, other), gap in self._both.items():
            spread = gap.spread(service[other] - service[one])
            bound = self._bounds[one, other]
            self.largest = max(self.largest, spread / bound)
            if self._strict and spread > bound + _ROUNDING:
                self._violated(
                    f"unfair: {one} and {other} both wait, and what they were served differs by "
                    f"{spread:g}, over the bound of {bound:g}"
                )
        for (one, other), gap in self._alone.items():
            behind = service[other] - service[one]
            gap.low = min(gap.low, behind)
            bound = 2 * self._bounds[one, other]
            if self._strict and behind - gap.low > bound + _ROUNDING:
                self._violated(
                    f"starved: while {one} waits {other} was served {behind - gap.low:g} more, "
                    f"over the bound of {bound:g}"
                )

    def _open(self, tenant: str) -> None:
        mine = self._flows[tenant]
        for other, flow in self._flows.items():
            if other == tenant:
                continue
            apart = self.service[other] - self.service[tenant]
            if (
                flow.batch == mine.batch
                and self.waiting[other]
                and (other, tenant) not in self._both
            ):
                self._both[tenant, other] = _Gap(apart)
            if flow.batch or not mine.batch:
                self._alone[tenant, other] = _Gap(apart)
