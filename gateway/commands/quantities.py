"""Numbers, durations, dates and budgets as people type them. What can't be read raises ValueError,
which says what was expected."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, get_args

from gateway.tenants import Window

NONE: Final = "none"
"""What takes a limit away."""

_WINDOWS: Final = get_args(Window)
_TIMES: Final = {"k": 10**3, "m": 10**6, "b": 10**9}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TOO_MUCH: Final = 10**18  # for any limit; Python won't write numbers of thousands of digits
_NUMBER = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)([kmb]?)", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", re.ASCII | re.IGNORECASE)


def parse_number(text: str) -> Decimal:
    """`1000`, `1_000`, `1,000`, `2.5k`, `1m`, `1b`."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"expected a number such as 60, 100k or 1.5m, not '{text}'")
    digits, times = found.groups()
    number = Decimal(re.sub("[_,]", "", digits)) * _TIMES.get(times.lower(), 1)
    if number >= _TOO_MUCH:
        raise ValueError(f"expected a number below 10^18, not '{text.strip()[:64]}'")
    return number


def parse_count(text: str) -> int | None:
    """A whole number of something; None for `none`."""
    if text.strip().lower() == NONE:
        return None
    number = parse_number(text)
    if number != int(number):
        raise ValueError(f"expected a whole number, not '{text}'")
    return int(number)


def parse_duration(text: str) -> float:
    """Seconds: `90s`, `30m`, `12h`, `30d`, `2w`."""
    found = _DURATION.fullmatch(text.strip())
    seconds = math.inf  # as is what is too long for a number
    if found is not None:
        number, unit = found.groups()
        seconds = float(Decimal(number) * _SECONDS[unit.lower()])
    if not math.isfinite(seconds):
        raise ValueError(
            f"expected a duration such as 90s, 30m, 12h, 30d or 2w, not '{text.strip()[:64]}'"
        )
    return seconds


def parse_expiry(text: str, now: float) -> int | None:
    """Seconds since the epoch: a duration from `now`, a date (its first moment in UTC), or a time
    as ISO 8601 has it (in UTC where it names no zone); None for `never`."""
    text = text.strip()
    if text.lower() in ("never", NONE):
        return None
    if _DURATION.fullmatch(text):
        return int(now + parse_duration(text))
    try:
        when = datetime.fromisoformat(text)
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
        return int(when.timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"expected a duration such as 30d, a date such as 2030-01-31, or never, not '{text}'"
        ) from None


def parse_budget(text: str) -> dict[str, Any]:
    """`tokens=1m/day` and `cost=25/month`, as the admin API has them."""
    unit, equals, rest = text.strip().partition("=")
    amount, slash, window = rest.partition("/")
    window = window if slash else "month"
    if unit not in ("tokens", "cost") or not equals or window not in _WINDOWS:
        raise ValueError(
            "expected tokens=AMOUNT/WINDOW or cost=AMOUNT/WINDOW, such as tokens=1m/day or "
            f"cost=25/month, with one of the windows {', '.join(_WINDOWS)}; not '{text}'"
        )
    # As text: what is exact here stays so in JSON.
    return {"unit": unit, "amount": format(parse_number(amount), "f"), "window": window}
