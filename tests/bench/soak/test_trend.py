from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.soak.trend import trend

SERIES = st.lists(st.floats(min_value=1e3, max_value=1e9), min_size=4, max_size=50)


@given(SERIES)
def test_the_line_is_numpys(ys: list[float]) -> None:
    xs = [float(x) for x in range(len(ys))]
    (slope, _), covariance = np.polyfit(xs, ys, 1, cov=True)

    found = trend(xs, ys)

    assert found.slope == pytest.approx(slope, rel=1e-6, abs=1e-3)
    assert found.standard_error == pytest.approx(covariance[0, 0] ** 0.5, rel=1e-6, abs=1e-3)


def test_growth_is_a_share_of_where_the_line_begins() -> None:
    found = trend([0, 1, 2], [100, 110, 120])

    assert found.slope == pytest.approx(10)
    assert found.standard_error == pytest.approx(0)
    assert found.growth == pytest.approx(0.2)


def test_steady_growth_is_not_flat() -> None:
    assert not trend(range(10), [100 + x for x in range(10)]).flat


def test_noise_is_flat() -> None:
    rng = random.Random(0)

    assert trend(range(200), [100 + rng.gauss(0, 10) for _ in range(200)]).flat


def test_a_leak_is_seen_through_noise() -> None:
    rng = random.Random(0)

    assert not trend(range(200), [100 + x / 4 + rng.gauss(0, 10) for x in range(200)]).flat


def test_growth_of_less_than_a_hundredth_is_flat() -> None:
    assert trend(range(10), [100 + x / 10 for x in range(10)]).flat


def test_what_shrinks_is_flat() -> None:
    assert trend(range(10), [100 - 5 * x for x in range(10)]).flat


@pytest.mark.parametrize(("xs", "ys"), [([], []), ([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3])])
def test_too_few_points_have_no_trend(xs: list[float], ys: list[float]) -> None:
    with pytest.raises(ValueError, match="no trend"):
        trend(xs, ys)
