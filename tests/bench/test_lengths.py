from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.prompts.lengths import Lengths, draw, longest, parse_lengths, shortest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("128", 128),
        ("64:256", Lengths("uniform", 64, 256)),
        ("normal:128:32", Lengths("normal", 128, 32)),
    ],
)
def test_lengths_are_read_as_they_are_shown(text: str, expected: int | Lengths) -> None:
    assert parse_lengths(text) == expected
    assert str(parse_lengths(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("many", "expected a number"),
        ("1:2:3", "expected a number"),
        ("normal:128", "expected a number"),
        ("0", "at least 1"),
        ("0:5", "at least 1"),
        ("9:5", "lower end"),
        ("normal:9:-1", "deviation"),
    ],
)
def test_other_texts_are_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_lengths(text)


@given(
    first=st.integers(1, 500), more=st.integers(0, 500), normal=st.booleans(), seed=st.integers()
)
def test_what_is_drawn_is_within_the_bounds(first: int, more: int, normal: bool, seed: int) -> None:
    lengths = Lengths("normal", first, more) if normal else Lengths("uniform", first, first + more)
    rng = random.Random(seed)

    drawn = [draw(lengths, rng) for _ in range(50)]

    assert all(1 <= shortest(lengths) <= value <= longest(lengths) for value in drawn)


def test_a_fixed_length_is_always_the_same() -> None:
    rng = random.Random(0)
    assert {draw(7, rng) for _ in range(20)} == {shortest(7)} == {longest(7)} == {7}
