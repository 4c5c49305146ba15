"""What one request has taken from all its accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.limits.meters import Meter

Amounts = tuple[int, int, int, int]


class Reservation:
    """Held from all accounts until `settle` or `cancel`; whichever comes first counts. `marks` are
    those of `taken`; None: as they are now."""

    __slots__ = ("_amounts", "_at", "_clock", "_marks", "_taken")

    def __init__(
        self,
        taken: list[Meter],
        amounts: Amounts,
        at: float,
        clock: Callable[[], float],
        marks: list[float] | None = None,
    ) -> None:
        self._taken = taken
        self._marks = [meter.mark for meter in taken] if marks is None else marks
        self._amounts = amounts
        self._at = at
        self._clock = clock

    def count(self, meters: Iterable[Meter]) -> None:
        """What has no limit counts it, too."""
        for meter in meters:
            meter.take(self._amounts[meter.unit], self._at)
            self._taken.append(meter)
            self._marks.append(meter.mark)

    def settle(self, tokens: int, cost: int) -> None:
        """It has ended and used this much, no more than was reserved: the rest comes back."""
        self._end((1, tokens, cost, 0))

    def cancel(self) -> None:
        """It has never started: everything comes back, the request too."""
        self._end((0, 0, 0, 0))

    def _end(self, used: Amounts) -> None:
        taken = self._taken
        if not taken:
            return
        self._taken = []
        amounts, at, now = self._amounts, self._at, self._clock()
        for meter, mark in zip(taken, self._marks, strict=True):
            unit = meter.unit
            meter.settle(amounts[unit], used[unit], at, mark, now)


def amounts_of(tokens: int, cost: int) -> Amounts:
    """What a request takes, by unit."""
    return (1, tokens, cost, 1)
