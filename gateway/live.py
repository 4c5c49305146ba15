"""What runs now, and the end of what stands still: it holds what it holds, and gains nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from gateway.errors import UnavailableError

_LOOKS_PER_STALL: Final = 4
_STALLED_RETRY_S: Final = 5.0


class Running(Protocol):
    """A request that is somewhere between its admission and its end."""

    @property
    def submitted(self) -> bool:
        """Whether an engine has it now."""
        ...

    def produced(self) -> int:
        """What it has gained so far."""
        ...

    def stands_still(self, seconds: float) -> bool:
        """Whether it will gain nothing any more, if it has gained nothing for so long."""
        ...

    def fail(self, error: Exception) -> None:
        """End it."""
        ...


T = TypeVar("T", bound=Running)


class Live(Generic[T]):
    """All of a kind. Whose engine has had it for `stall_s` seconds and stands still is failed with
    UnavailableError. Belongs to one event loop."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        # How much each had gained when it was last looked at, and since when.
        self._seen: dict[T, tuple[int, float]] = {}
        self._look: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._seen))

    def add(self, one: T) -> None:
        self._seen[one] = (0, 0.0)
        if self._look is None:
            self._look_later()

    def discard(self, one: T) -> None:
        self._seen.pop(one, None)

    def _look_later(self) -> None:
        wait = self._stall_s / _LOOKS_PER_STALL
        self._look = asyncio.get_running_loop().call_later(wait, self._look_at_all)

    def _look_at_all(self) -> None:
        now = time.perf_counter()
        for one, (before, since) in list(self._seen.items()):
            produced = one.produced()
            if not one.submitted:
                self._seen[one] = (produced, 0.0)
            elif produced != before or not since:
                self._seen[one] = (produced, now)
            elif now - since >= self._stall_s and one.stands_still(self._stall_s):
                one.fail(_stalled(self._stall_s))
        self._look = None
        if self._seen:
            self._look_later()


def _stalled(seconds: float) -> UnavailableError:
    return UnavailableError(
        f"The engine has produced nothing for this request in {seconds:g} s.",
        code="engine_stalled",
        retry_after_s=_STALLED_RETRY_S,
    )
