"""Exact limits: what a request may use at most is reserved before it starts, what it has used is
settled when it has ended, and nothing is ever admitted beyond a limit."""

from gateway.limits.limiter import Limiter
from gateway.limits.reservation import Reservation
from gateway.limits.shared import SharedLimits
from gateway.limits.sharing import shared_limits

__all__ = ["Limiter", "Reservation", "SharedLimits", "shared_limits"]
