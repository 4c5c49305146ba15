"""What an account has used in each window that goes on, whether or not a budget counts it now: one
that is given, or changed, begins where use is. Pure: the time is told."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from gateway.limits.refusals import Refusal
from gateway.limits.windows import window_end, window_start
from gateway.store.usage import WINDOWS, Spent
from gateway.tenants import Unit, Window

_TOTAL: Final = WINDOWS.index("total")
_HOUR_S: Final = 3600.0
# Who sets the clock back by less stays in the windows it was in: none is begun twice. By more, the
# clock was wrong, and they might not end for years.
_BACK_S: Final = 3600.0


class Use:
    """One unit of one account. Counted once for all windows: of each it is only known how much
    there was when it began. A `Meter` without a limit."""

    __slots__ = (
        "_before",
        "_held",
        "_held_before",
        "_starts",
        "_used",
        "account",
        "kind",
        "mark",
        "unit",
    )

    def __init__(self, account: str, kind: Unit, unit: int, now: float) -> None:
        self.account = account
        self.kind: str = kind
        self.unit = unit
        self.mark = window_start("hour", now)
        self._starts = _starts(self.mark)
        self._used = self._held = 0  # of the used: what requests that run may yet give back
        self._before = [0] * len(WINDOWS)
        self._held_before = [0] * len(WINDOWS)

    @property
    def limit(self) -> int | None:
        return None

    def take(self, amount: int, now: float) -> bool:
        if not -_BACK_S < now - self.mark < _HOUR_S:
            self._roll(now)
        self._used += amount
        self._held += amount
        return True

    def settle(self, reserved: int, used: int, at: float, mark: float, now: float) -> None:
        if not -_BACK_S < now - self.mark < _HOUR_S:
            self._roll(now)
        back = reserved - used
        self._used -= back
        self._held -= reserved
        if mark != self.mark:
            for index, start in enumerate(_starts(mark)):
                if start != self._starts[index]:  # it was taken from another window
                    self._before[index] -= back
                    self._held_before[index] -= reserved

    def used(self, window: Window, now: float) -> int:
        """In the window that `now` is in; what is reserved counts."""
        self.take(0, now)
        return self._used - self._before[_PLACES[window]]

    def held(self, window: Window, now: float) -> int:
        """Of that, what requests that run may yet give back."""
        self.take(0, now)
        return self._held - self._held_before[_PLACES[window]]

    def settled(self, window: Window, since: float, now: float) -> int:
        """What requests that have ended used in the window that began at `since`: none, as far as
        is known, where that isn't the one that `now` is in."""
        self.take(0, now)
        if since != self._starts[_PLACES[window]]:
            return 0
        return self.used(window, now) - self.held(window, now)

    def add(self, spent: Spent, now: float) -> None:
        """There was more use, that this program hasn't seen."""
        self.take(0, now)
        place = _PLACES[spent.window]
        if spent.since == self._starts[place]:
            self._before[place] -= spent.amount

    def ends(self, window: Window) -> float:
        """When the window is over."""
        return window_end(window, self._starts[_PLACES[window]])

    def lack(self, amount: int, now: float) -> Refusal | None:
        return None

    def left(self, now: float) -> int:
        return 0

    def full_in(self, now: float) -> float:
        return 0.0

    def most(self, now: float) -> int:
        return 0

    def idle(self, now: float) -> bool:
        """Whether there is nothing to know but what was used in all."""
        self.take(0, now)
        used = all(self._used == self._before[index] for index in range(_TOTAL))
        return used and not self._held

    def edit(self, limit: int | None, now: float) -> bool:
        return True

    def learn(self, spent: Spent, now: float) -> None:
        if spent.unit == self.kind:
            more = spent.amount - self.settled(spent.window, spent.since, now)
            self.add(msgspec.structs.replace(spent, amount=max(0, more)), now)

    def _roll(self, now: float) -> None:
        self.mark = window_start("hour", now)
        starts = _starts(self.mark)
        for index, start in enumerate(starts):
            if start != self._starts[index]:
                self._before[index] = self._used
                self._held_before[index] = self._held
        self._starts = starts


_PLACES: dict[Window, int] = {window: index for index, window in enumerate(WINDOWS)}


@lru_cache(maxsize=64)
def _starts(hour: float) -> tuple[float, ...]:
    """When the windows began that the hour is in."""
    return tuple(window_start(window, hour) for window in WINDOWS)
