"""How OpenAI's headers and messages write a time span."""

from __future__ import annotations

from math import ceil


def duration(seconds: float) -> str:
    """`20ms`, `1s`, `7.66s`, `6m0s`, `1h0m0s`: rounded up, to milliseconds below a minute and to
    seconds above, as nobody waits more exactly."""
    if seconds <= 0:
        return "0s"
    if seconds >= 60:
        minutes, rest = divmod(ceil(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
    thousandths = ceil(round(seconds * 1000, 6))
    if thousandths < 1000:
        return f"{thousandths}ms"
    if thousandths >= 60_000:
        return "1m0s"
    whole, part = divmod(thousandths, 1000)
    return f"{whole}.{part:03d}".rstrip("0").rstrip(".") + "s"
