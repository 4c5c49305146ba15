"""What is measured of an engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.rates import Drain, Mean, Prefill


def read(prefill: Prefill, lengths: list[int], fixed: float, per_token: float) -> None:
    """Have one prompt after the other be read, with pauses."""
    now = 100.0
    for tokens in lengths:
        prefill.busy(True, now)
        now += fixed + tokens * per_token
        prefill.read(tokens, now)
        prefill.busy(False, now)
        now += 7.0


@given(
    lengths=st.lists(st.integers(1, 4000), min_size=8, max_size=40).filter(
        lambda found: max(found) > 2 * min(found)
    ),
    fixed=st.floats(0.001, 0.1),
    per_token=st.floats(1e-5, 1e-2),
)
def test_a_step_and_its_tokens_are_told_apart(
    lengths: list[int], fixed: float, per_token: float
) -> None:
    prefill = Prefill()
    read(prefill, [*lengths, 1], fixed, per_token)
    found = prefill.seconds(500)
    assert found is not None
    if prefill.tokens_per_second is not None:
        assert found == pytest.approx(fixed + 500 * per_token, rel=0.02)
        assert prefill.tokens_per_second == pytest.approx(1 / per_token, rel=0.02)


def test_short_prompts_do_not_make_long_ones_look_slow() -> None:
    prefill = Prefill()
    read(prefill, [10] * 20, 0.07, 0.0001)
    assert prefill.tokens_per_second is None
    assert prefill.seconds(2000) == pytest.approx(0.071)


def test_prompts_that_are_read_together_count_together() -> None:
    prefill = Prefill()
    now = 0.0
    for tokens in (100, 300, 200, 400, 100, 500):
        prefill.busy(True, now)
        now += 4 * tokens * 0.001
        for number in range(4):
            prefill.read(tokens, now + number * 0.0001)
        prefill.busy(False, now)
    assert prefill.tokens_per_second == pytest.approx(1000, rel=0.01)


def test_nothing_is_said_of_reading_before_some_steps_were_seen() -> None:
    prefill = Prefill()
    assert prefill.seconds(10) is None
    read(prefill, [10, 1000], 0.1, 0.1)
    assert prefill.seconds(10) is None
    assert prefill.tokens_per_second is None


def test_an_interrupted_step_is_forgotten() -> None:
    prefill = Prefill()
    read(prefill, [100, 200, 300, 400, 500], 0.0, 0.001)
    prefill.busy(True, 1000.0)
    prefill.interrupt()
    prefill.busy(True, 5000.0)
    prefill.read(100, 5000.1)
    prefill.read(200, 5000.3)
    prefill.read(100, 5000.4)
    assert prefill.seconds(100) == pytest.approx(0.1, rel=0.01)


def test_a_rate_is_told_after_a_turnover_of_all_seats() -> None:
    drain = Drain()
    drain.seats(4)
    drain.busy(True, 0.0)
    for number in range(1, 5):
        assert drain.sequences_per_second(float(number)) is None
        drain.ended(1, float(number))
    assert drain.sequences_per_second(4.0) == pytest.approx(1.0)


def test_only_the_time_counts_in_which_the_engine_is_full() -> None:
    drain = Drain()
    drain.seats(2)
    for start in range(0, 1000, 100):
        drain.busy(True, float(start))
        drain.ended(1, start + 0.5)
        drain.busy(False, start + 0.5)
        drain.ended(1, start + 50.0)
    assert drain.sequences_per_second(1000.0) == pytest.approx(2.0)


def test_a_stall_lowers_the_rate_while_it_lasts() -> None:
    drain = Drain()
    drain.seats(1)
    drain.busy(True, 0.0)
    for number in range(1, 20):
        drain.ended(1, float(number))
    before, after = drain.sequences_per_second(19.0), drain.sequences_per_second(49.0)
    assert before is not None
    assert after is not None
    assert after < before / 10


def test_requests_of_several_sequences_end_more_slowly_than_their_sequences() -> None:
    drain = Drain()
    drain.seats(4)
    drain.busy(True, 0.0)
    for number in range(1, 9):
        drain.ended(4, float(number))
    assert drain.sequences_per_second(8.0) == pytest.approx(4.0)
    assert drain.requests_per_second(8.0) == pytest.approx(1.0)


def test_a_mean_follows() -> None:
    mean = Mean()
    assert mean.value == 0
    for _ in range(10):
        mean.add(10.0)
    for _ in range(100):
        mean.add(200.0, weight=2.0)
    assert mean.value == pytest.approx(100, rel=0.01)
