"""The headers that tell what is left."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.limits.durations import duration
from gateway.limits.meters import Meter

Headers = list[tuple[bytes, bytes]]


def _names(kind: bytes) -> tuple[bytes, bytes, bytes]:
    return (
        b"x-ratelimit-limit-" + kind,
        b"x-ratelimit-remaining-" + kind,
        b"x-ratelimit-reset-" + kind,
    )


_KINDS = {"rpm": _names(b"requests"), "tpm": _names(b"tokens")}


def headers_of(meters: Iterable[Meter], now: float) -> Headers:
    """Of those that count requests a minute the one that has least left, and of those that count
    tokens; a kind that has no limit is not told."""
    tightest: dict[str, tuple[int, Meter]] = {}
    for meter in meters:
        if meter.kind in _KINDS:
            left = meter.left(now)
            known = tightest.get(meter.kind)
            if known is None or left < known[0]:
                tightest[meter.kind] = left, meter
    found: Headers = []
    for kind, (limit, remaining, reset) in _KINDS.items():
        if kind in tightest:
            left, meter = tightest[kind]
            found.append((limit, b"%d" % (meter.limit or 0)))
            found.append((remaining, b"%d" % left))
            found.append((reset, duration(meter.full_in(now)).encode()))
    return found
