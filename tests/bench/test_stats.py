from __future__ import annotations

import statistics
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import bootstrap_median, percentile, summarize

VALUES = st.lists(
    st.floats(min_value=-1e6, max_value=1e6, allow_nan=False), min_size=1, max_size=60
)


@given(VALUES, st.floats(min_value=0, max_value=100))
def test_percentiles_are_those_of_numpy(values: list[float], percent: float) -> None:
    expected = float(np.percentile(values, percent))

    assert percentile(sorted(values), percent) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=2, max_size=60))
def test_whole_percentiles_are_the_inclusive_quantiles_of_the_standard_library(
    values: list[float],
) -> None:
    quantiles = statistics.quantiles(values, n=100, method="inclusive")

    ordered = sorted(values)
    for percent in (50, 90, 95, 99):
        assert percentile(ordered, percent) == pytest.approx(quantiles[percent - 1], abs=1e-6)


@given(VALUES)
def test_a_summary_is_ordered_and_bounded_by_its_values(values: list[float]) -> None:
    summary = summarize(values)

    assert summary is not None
    ranks = [summary.min, summary.p50, summary.p90, summary.p95, summary.p99, summary.max]
    for lower, upper in pairwise(ranks):
        assert lower <= upper or lower == pytest.approx(upper)
    assert (summary.min, summary.max) == (min(values), max(values))
    assert summary.count == len(values)
    assert summary.mean == pytest.approx(statistics.fmean(values))


@given(VALUES)
def test_a_summary_does_not_depend_on_the_order(values: list[float]) -> None:
    assert summarize(values) == summarize(reversed(values))


def test_nothing_measured_has_no_summary() -> None:
    assert summarize([]) is None


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_impossible_percentiles_are_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        percentile(values, percent)


@given(st.lists(st.floats(min_value=0.1, max_value=10), min_size=1, max_size=9))
def test_a_bootstrap_interval_holds_the_median_and_stays_within_the_values(
    values: list[float],
) -> None:
    interval = bootstrap_median(values, resamples=200)

    assert interval.median == statistics.median(values)
    assert min(values) <= interval.low <= interval.high <= max(values)
    assert bootstrap_median(values, resamples=200) == interval


def test_the_interval_of_five_values_is_their_whole_range() -> None:
    interval = bootstrap_median([1.02, 1.01, 1.4, 1.1, 0.9])

    assert (interval.low, interval.median, interval.high) == (0.9, 1.02, 1.4)


def test_the_interval_of_many_values_is_narrower_than_their_range() -> None:
    interval = bootstrap_median([float(value) for value in range(101)])

    assert 0 < interval.low < 50 < interval.high < 100


def test_there_is_no_median_of_nothing() -> None:
    with pytest.raises(ValueError, match="median"):
        bootstrap_median([])
