"""When the next prompt goes: no sooner than those before it can have been read."""

from __future__ import annotations

import math
from typing import Final

# Tenants share an engine as long as requests of several come within this time.
SHARED_S: Final = 60.0
# A prompt that takes longer to be read leaves room in its steps: the engine reads it in parts.
MOST_S: Final = 0.1
# No step is so short that it mattered, and timers are late by as much.
SLACK_S: Final = 0.01


class Pace:
    """Prompts that are sent together are read together, in one long step, and who comes meanwhile
    waits for its end. So where tenants share an engine each prompt goes when those before it have
    been read, as fast as that was measured: the order is decided as late as can be, and the engine
    is as busy as ever. One tenant by itself has nobody to make wait.

    Pure, with the time passed in.
    """

    def __init__(self) -> None:
        self._next = -math.inf
        self._tenant: str | None = None
        self._seen_at = -math.inf
        self._shared_until = -math.inf

    def seen(self, tenant: str, now: float) -> None:
        """A tenant asks for something."""
        if tenant != self._tenant:
            self._shared_until = self._seen_at + SHARED_S
            self._tenant = tenant
        self._seen_at = now

    def sent(self, reading_s: float, now: float) -> None:
        """A prompt goes, and takes so long to be read."""
        self._next = max(now - SLACK_S, self._next) + min(reading_s, MOST_S)

    def unread(self, reading_s: float, now: float) -> None:
        """What was sent and is still to be read takes so long: others were read, or are gone."""
        self._next = min(self._next, now + reading_s)

    def wait(self, now: float) -> float:
        """Seconds until the next may go."""
        return max(0.0, min(self._next, self._shared_until) - now)
