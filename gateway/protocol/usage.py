"""`/admin/v1/usage`: what may be asked, and how it is told. `gateway usage` says the same."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints
from typing_extensions import TypedDict

from gateway.protocol.parse import WireModel
from gateway.tenants import NANOS

Dimension = Literal["day", "key", "team", "model", "caller", "endpoint", "outcome"]
Outcome = Literal["completed", "cancelled", "interrupted", "rejected", "failed", "lost"]

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
EVERYTHING = "all"
MAX_GROUPS = 1000
DEFAULT_S = 30 * 86_400.0
END_S = 253_402_300_800  # of the year 9999, the calendar's last
COUNTS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "total_tokens",
)


def dimensions(names: str) -> tuple[Dimension, ...]:
    """`day,key` as a tuple; `all`, or nothing: everything in one sum. Raises ValueError."""
    given = [name.strip() for name in names.split(",") if name.strip()]
    if given == [EVERYTHING]:
        return ()
    found = tuple(name for name in DIMENSIONS if name in given)
    if len(found) < len(given):
        raise ValueError(
            f"expected one or more of {', '.join(DIMENSIONS)}, each once and separated by "
            f"commas, or {EVERYTHING}, not '{names[:64]}'"
        )
    order = {name: place for place, name in enumerate(given)}
    return tuple(sorted(found, key=lambda name: order[name]))


def in_calendar(seconds: float, text: str) -> float:
    """The same, where a date can tell it. Raises ValueError, with the `text` it was made of."""
    if not 0 <= seconds < END_S:
        raise ValueError(
            f"expected a time from 1970-01-01 to the end of 9999 (UTC), not '{text[:64]}'"
        )
    return seconds


def default_since(until: float) -> float:
    return max(0.0, until - DEFAULT_S)


def moment(text: str) -> float:
    """Seconds since the epoch, given as such, or as a date (its first moment, UTC) or time of ISO
    8601 (UTC where it names no zone). Raises ValueError."""
    if text.isascii() and text.isdigit() and 8 < len(text) < 12:
        return float(text)
    try:
        when = datetime.fromisoformat(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"expected a date such as 2030-01-31, a time such as 2030-01-31T12:00, or seconds "
            f"since the epoch, not '{text[:64]}'"
        ) from None
    return in_calendar(seconds, text)


def _checked_dimensions(names: str) -> str:
    dimensions(names)
    return names


def _checked_moment(text: str) -> str:
    moment(text)
    return text


_Text = Annotated[str, StringConstraints(max_length=256)]
_Moment = Annotated[
    _Text,
    AfterValidator(_checked_moment),
    Field(description="a date, a time of ISO 8601, or seconds since the epoch"),
]


class UsageQuery(WireModel):
    """Requests, tokens and cost from `since` on and before `until`, summed up for each combination
    of `by`: at most `limit` of these, after the first `offset`."""

    by: Annotated[
        _Text,
        AfterValidator(_checked_dimensions),
        Field(description=f"any of {', '.join(DIMENSIONS)}, separated by commas; all: one sum"),
    ] = "day"
    since: Annotated[_Moment | None, Field(description="default: 30 days before until")] = None
    until: Annotated[_Moment | None, Field(description="default: now")] = None
    key: Annotated[_Text | None, Field(description="a key's id or name")] = None
    team: Annotated[_Text | None, Field(description="a team's id or name")] = None
    model: _Text | None = None
    caller: _Text | None = None
    endpoint: _Text | None = None
    outcome: Outcome | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_GROUPS)] = MAX_GROUPS
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    format: Literal["json", "csv"] | None = None


class Grouping(TypedDict, total=False):
    """What requests have in common: those of `by`."""

    day: str
    key: str | None
    team: str | None
    model: str | None
    caller: str
    endpoint: str
    outcome: str


class UsageGroup(Grouping):
    """Sums of some requests; `cost` is in units of the configuration's currency, exact."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost: str


class Usage(TypedDict):
    """The answer of `/admin/v1/usage`."""

    object: Literal["usage"]
    since: str
    until: str
    by: list[Dimension]
    data: list[UsageGroup]
    has_more: bool


def money(nanos: int) -> str:
    """Nano-units of currency in units, exact: `0.000012`."""
    text = f"{Decimal(nanos) / NANOS:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def told(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group of sums, as it is shown: with the total of its tokens, its cost in units."""
    shown: dict[str, Any] = {name: group[name] for name in DIMENSIONS if name in group}
    total = group["prompt_tokens"] + group["completion_tokens"]
    counts = {name: group.get(name, total) for name in COUNTS}
    return {**shown, **counts, "cost": money(group["cost"])}


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def answer(
    data: Sequence[Mapping[str, Any]],
    by: Sequence[Dimension],
    since: float,
    until: float,
    *,
    has_more: bool = False,
) -> dict[str, Any]:
    """`data` are groups as `told`."""
    return {
        "object": "usage",
        "since": timestamp(since),
        "until": timestamp(until),
        "by": list(by),
        "data": list(data),
        "has_more": has_more,
    }


def as_csv(data: Iterable[Mapping[str, Any]], by: Sequence[Dimension]) -> str:
    """The same as lines, with a heading. What a spreadsheet would take for a formula has an
    apostrophe before it: clients choose the names of models."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*by, *COUNTS, "cost"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in group.items()} for group in data)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return text.replace("\r", "\n")  # which, unlike the other, gets quotes around it
