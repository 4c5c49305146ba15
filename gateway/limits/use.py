"""What an account has used in each window that goes on, whether or not a budget counts it now: one
that is given, or changed, begins where use is. Pure: the time is told."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from gateway.limits.refusals import Refusal
from gateway.limits.windows import window_end, window_start
from gateway.store.usage import WINDOWS, Spent
from gateway.tenants import Unit, Window

# All other windows end when an hour does.
_HOUR: Final = WINDOWS.index("hour")
_TOTAL: Final = WINDOWS.index("total")


class Use:
    """One unit of one account. Counted once for all windows: of each it is only known how much
    there was when it began. A `Meter` without a limit."""

    __slots__ = ("_before", "_held", "_held_before", "_starts", "_used", "account", "kind", "unit")

    def __init__(self, account: str, kind: Unit, unit: int, now: float) -> None:
        self.account = account
        self.kind: str = kind
        self.unit = unit
        self._starts = _starts(window_start("hour", now))
        self._used = self._held = 0  # of the used: what requests that run may yet give back
        self._before = [0] * len(WINDOWS)
        self._held_before = [0] * len(WINDOWS)

    @property
    def limit(self) -> int | None:
        return None

    def take(self, amount: int, now: float) -> bool:
        if now - self._starts[_HOUR] >= 3600.0:
            self._roll(now)
        self._used += amount
        self._held += amount
        return True

    def settle(self, reserved: int, used: int, at: float, now: float) -> None:
        if now - self._starts[_HOUR] >= 3600.0:
            self._roll(now)
        back = reserved - used
        self._used -= back
        self._held -= reserved
        if at < self._starts[_HOUR]:
            for index, start in enumerate(self._starts):
                if at < start:  # it was taken from the window before
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

    def add(self, window: Window, amount: int) -> None:
        """There was more use in a window, that this program hasn't seen."""
        self._before[_PLACES[window]] -= amount

    def at_least(self, window: Window, settled: int, now: float) -> None:
        """What requests that have ended used in the window is no less than this."""
        self.add(window, max(0, settled - self.used(window, now) + self.held(window, now)))

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
        """`at_least` does."""

    def _roll(self, now: float) -> None:
        starts = _starts(window_start("hour", now))
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
