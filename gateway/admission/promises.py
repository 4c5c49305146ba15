"""Who was told when to come back: each tenant's line goes on outside.

Each of its refused requests is told a time of its own, one after the other at the pace at which
places become free for it. So they don't come back together, and when they come there is a place:
while a promise is due, the tenant's new requests are refused for it. How many places are held
follows how many did come back: for clients that don't, none.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from gateway.errors import RETRY_AFTER_CAP_S, RETRY_JITTER

# A promise is due from its time on for as long as the jitter may have added to it, and this.
GRACE_S: Final = 1.0
LONGEST_S: Final = RETRY_AFTER_CAP_S / RETRY_JITTER
# Of one tenant; more are told a time, but no place is held for them.
MOST: Final = 1024
# Books are looked through for such as can be dropped when there are so many.
SWEEP_AT: Final = 256
MEMORY: Final = 0.95


class Promises:
    """Of one replica; pure, with the time passed in."""

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}
        self._sweep_at = SWEEP_AT

    def give(self, tenant: str, wait_s: float, gap_s: float, now: float) -> float:
        """In how many seconds a refused request may come: in `wait_s` at the earliest, and `gap_s`
        after the one of its tenant that was promised a place before."""
        book = self._books.get(tenant)
        if book is None:
            if len(self._books) >= self._sweep_at:
                self._sweep(now)
            book = self._books[tenant] = _Book()
        return book.give(wait_s, gap_s, now)

    def held(self, tenant: str, now: float) -> float:
        """How many places are held for those of `tenant` who are expected now."""
        book = self._books.get(tenant)
        return 0.0 if book is None else book.held(now)

    def claim(self, tenant: str, now: float) -> bool:
        """Somebody of `tenant` has come: whether one was expected. A promise is kept then."""
        book = self._books.get(tenant)
        return book is not None and book.claim(now)

    def _sweep(self, now: float) -> None:
        self._books = {name: book for name, book in self._books.items() if not book.over(now)}
        self._sweep_at = max(SWEEP_AT, 2 * len(self._books))


class _Book:
    """One tenant's."""

    def __init__(self) -> None:
        self._last = 0.0
        self._given: deque[tuple[float, float]] = deque()
        self._due: deque[float] = deque()
        self._return_share = 1.0

    def give(self, wait_s: float, gap_s: float, now: float) -> float:
        at = min(max(now + wait_s, self._last + gap_s), now + LONGEST_S)
        self._last = max(self._last, at)
        if len(self._given) < MOST:
            self._given.append((at, at + (at - now) * (RETRY_JITTER - 1) + GRACE_S))
        return at - now

    def held(self, now: float) -> float:
        self._pass(now)
        return len(self._due) * self._return_share

    def claim(self, now: float) -> bool:
        self._pass(now)
        if not self._due:
            return False
        self._due.popleft()
        self._learn(True)
        return True

    def over(self, now: float) -> bool:
        self._pass(now)
        return not self._given and not self._due

    def _pass(self, now: float) -> None:
        while self._given and self._given[0][0] <= now:
            self._due.append(self._given.popleft()[1])
        while self._due and self._due[0] <= now:
            self._due.popleft()
            self._learn(False)

    def _learn(self, kept: bool) -> None:
        self._return_share = MEMORY * self._return_share + (1 - MEMORY) * kept
