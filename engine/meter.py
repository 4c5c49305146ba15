"""Counts what an engine does, for `stats()` and `drain()`."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 5.0


class Meter:
    """Sequences in the engine, tokens in and out, and when the last step ended.

    `clock` returns seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy_since = 0.0
        self._last_step: float | None = None
        self._recent: deque[tuple[float, int]] = deque()
        # Their sum: thousands of steps, asked for with many a decision.
        self._recent_tokens = 0
        self.live = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0

    def enter(self, sequences: int) -> None:
        """So many sequences are live from now on."""
        if not self.live:
            self._busy_since = self._clock()
        self.live += sequences
        self._idle.clear()

    def leave(self, sequences: int) -> None:
        """So many are over."""
        self.live -= sequences
        if not self.live:
            self._idle.set()

    async def idle(self) -> None:
        """Return once nothing is live."""
        await self._idle.wait()

    def step(self, prompt_tokens: int, generation_tokens: int) -> None:
        """One engine step ended, with so many prompt tokens read and tokens generated."""
        now = self._clock()
        self._last_step = now
        self.prompt_tokens += prompt_tokens
        self.generation_tokens += generation_tokens
        if generation_tokens:
            self._recent.append((now, generation_tokens))
            self._recent_tokens += generation_tokens
        self._forget(now)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second over the last few seconds."""
        self._forget(self._clock())
        return self._recent_tokens / WINDOW_S

    @property
    def seconds_since_step(self) -> float | None:
        """None before the first step. While busy, time idle before doesn't count: an engine that
        has just been given work isn't late."""
        if self._last_step is None and not self.live:
            return None
        last = self._last_step if self._last_step is not None else self._busy_since
        return self._clock() - (max(last, self._busy_since) if self.live else last)

    def reset(self) -> None:
        """Forget the tokens counted so far."""
        self.prompt_tokens = self.generation_tokens = 0
        self._recent.clear()
        self._recent_tokens = 0

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] <= now - WINDOW_S:
            self._recent_tokens -= self._recent.popleft()[1]
