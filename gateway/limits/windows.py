"""When the calendar windows of budgets end, in UTC. Times are seconds since the epoch."""

from __future__ import annotations

from math import inf

from gateway.store.usage import window_start
from gateway.tenants import Window

_LENGTHS_S = {"hour": 3600.0, "day": 86_400.0, "week": 7 * 86_400.0}


def window_end(window: Window, start: float) -> float:
    """The first moment of the window that follows the one that began at `start`; infinity where
    none does."""
    if window == "total":
        return inf
    if window == "month":
        return window_start("month", start + 31 * 86_400.0)
    return start + _LENGTHS_S[window]


__all__ = ["window_end", "window_start"]
