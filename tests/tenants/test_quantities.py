"""What people type on the command line, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commands.quantities import (
    parse_budget,
    parse_count,
    parse_duration,
    parse_expiry,
    parse_number,
)
from gateway.protocol.parse import parse
from gateway.protocol.tenancy import BudgetFields
from gateway.tenants import NANOS, Budget, Window

WINDOWS = get_args(Window)
NOW = 1_800_000_000.0


def refusal(parse_it: Callable[[str], object], text: str) -> str | None:
    """Why it is refused; None: it isn't."""
    try:
        parse_it(text)
    except ValueError as error:
        return str(error)
    return None


@given(st.integers(0, 10**15))
def test_a_number_is_what_it_says_with_and_without_separators(number: int) -> None:
    for text in (str(number), f"{number:,}", f"{number:_}", f" {number} "):
        assert parse_count(text) == number


@given(st.decimals(0, 10**6, places=3), st.sampled_from(["k", "m", "b", "K", "M", "B"]))
def test_a_letter_multiplies_exactly(number: Decimal, letter: str) -> None:
    times = {"k": 10**3, "m": 10**6, "b": 10**9}[letter.lower()]
    assert parse_number(f"{number}{letter}") == number * times
    assert parse_count(f"{number}{letter}") == int(number * times)


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_is_refused_in_words(text: str) -> None:
    why = refusal(parse_number, text)
    assert why is None or why.startswith("expected a number")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", "0x10", "1 000", "k", "1kk", "٣", "nan"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a"):
        parse_count(text)


def test_none_takes_a_limit_away() -> None:
    assert parse_count("none") is None
    assert parse_count(" None ") is None


@given(st.integers(0, 10**6), st.sampled_from("smhdw"))
def test_a_duration_is_seconds(number: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[unit]
    assert parse_duration(f"{number}{unit}") == number * seconds


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_is_refused_in_words(text: str) -> None:
    why = refusal(parse_duration, text)
    assert why is None or why.startswith("expected a duration")


@pytest.mark.parametrize("unit", "smhdw")
def test_a_duration_longer_than_any_number_is_refused(unit: str) -> None:
    for parse_it in (parse_duration, partial(parse_expiry, now=NOW)):
        why = refusal(parse_it, "9" * 400 + unit)
        assert why is not None
        assert why.startswith("expected a duration")
        assert len(why) < 200


@pytest.mark.parametrize("parse_it", [parse_number, parse_count])
def test_a_number_too_large_for_any_limit_is_refused(parse_it: Callable[[str], object]) -> None:
    for text in ("9" * 5000, "1_000_000_000b"):
        why = refusal(parse_it, text)
        assert why is not None
        assert why.startswith("expected a number below 10^18")
        assert len(why) < 200


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1)))
def test_a_date_or_a_time_is_meant_in_utc(when: datetime) -> None:
    assert parse_expiry(when.isoformat(), NOW) == int(when.replace(tzinfo=UTC).timestamp())
    midnight = datetime(when.year, when.month, when.day, tzinfo=UTC)
    assert parse_expiry(when.date().isoformat(), NOW) == int(midnight.timestamp())


def test_an_expiry_may_name_a_zone_be_a_duration_or_never() -> None:
    assert parse_expiry("2030-01-31T12:00+02:00", NOW) == parse_expiry("2030-01-31T10:00Z", NOW)
    assert parse_expiry("30d", NOW) == NOW + 30 * 86_400
    assert parse_expiry("never", NOW) is None


@given(st.text(max_size=12))
def test_any_text_is_an_expiry_or_is_refused_in_words(text: str) -> None:
    why = refusal(partial(parse_expiry, now=NOW), text)
    assert why is None or why.startswith("expected a duration such as 30d, a date")


def budget(text: str) -> Budget:
    return parse(BudgetFields, msgspec.json.encode(parse_budget(text))).budget()


@given(st.integers(1, 10**15), st.sampled_from(WINDOWS))
def test_a_budget_of_tokens_is_what_it_says(amount: int, window: Window) -> None:
    assert budget(f"tokens={amount}/{window}") == Budget("tokens", amount, window)


@given(st.decimals("0.000000001", 10**9, places=9), st.sampled_from(WINDOWS))
def test_a_budget_of_cost_is_exact_to_the_last_part(amount: Decimal, window: Window) -> None:
    expected = Budget("currency", int(amount * NANOS), window)
    assert budget(f"cost={amount:f}/{window}") == expected


def test_a_budget_without_a_window_is_a_months() -> None:
    assert budget("tokens=1.5m") == Budget("tokens", 1_500_000, "month")


@given(st.text(max_size=16) | st.from_regex(r"(tokens|cost)=[^/]{0,6}/?[a-z]{0,6}"))
def test_any_text_is_a_budget_or_is_refused_in_words(text: str) -> None:
    why = refusal(parse_budget, text)
    assert why is None or why.startswith("expected ")
