from __future__ import annotations

import statistics
from itertools import islice, pairwise, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measuring.arrivals import ArrivalKind, Arrivals

KINDS: tuple[ArrivalKind, ...] = ("poisson", "constant", "burst", "ramp")


def gaps(arrivals: Arrivals, count: int) -> list[float]:
    return [later - earlier for earlier, later in pairwise(islice(arrivals.times(1), count))]


@given(
    kind=st.sampled_from(KINDS),
    rate=st.floats(0.01, 1000),
    end=st.floats(0.01, 1000),
    ramp_s=st.floats(0, 100),
    seed=st.integers(),
)
def test_times_ascend_and_are_the_same_for_the_same_seed(
    kind: ArrivalKind, rate: float, end: float, ramp_s: float, seed: int
) -> None:
    arrivals = Arrivals(kind, rate, burstiness=0.3, rate_end=end, ramp_s=ramp_s)

    times = list(islice(arrivals.times(seed), 50))

    assert times == sorted(times)
    assert times[0] >= 0
    assert times == list(islice(arrivals.times(seed), 50))


def test_constant_arrivals_are_evenly_spaced_from_the_start() -> None:
    times = list(islice(Arrivals("constant", 4.0).times(0), 5))

    assert times == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("kind", "burstiness", "variation"),
    [("poisson", 1.0, 1.0), ("burst", 1.0, 1.0), ("burst", 0.25, 2.0), ("burst", 16.0, 0.25)],
)
def test_gaps_have_the_mean_of_the_rate_and_vary_as_their_distribution(
    kind: ArrivalKind, burstiness: float, variation: float
) -> None:
    found = gaps(Arrivals(kind, 8.0, burstiness), 40_000)

    mean = statistics.fmean(found)
    assert mean == pytest.approx(1 / 8, rel=0.03)
    # A gamma distribution of this shape varies by 1 / sqrt(shape).
    assert statistics.pstdev(found) / mean == pytest.approx(variation, rel=0.05)


def test_a_ramp_goes_from_one_rate_to_the_other_and_stays_there() -> None:
    arrivals = Arrivals("ramp", 10.0, rate_end=30.0, ramp_s=1000.0)

    times = list(takewhile(lambda at: at < 2000, arrivals.times(1)))

    def count(start: float, end: float) -> int:
        return sum(start <= at < end for at in times)

    assert count(0, 500) == pytest.approx(500 * 15, rel=0.05)
    assert count(500, 1000) == pytest.approx(500 * 25, rel=0.05)
    assert count(1000, 2000) == pytest.approx(1000 * 30, rel=0.05)


def test_a_ramp_between_equal_rates_is_poisson() -> None:
    level = Arrivals("ramp", 5.0, rate_end=5.0, ramp_s=10.0)

    assert list(islice(level.times(3), 200)) == pytest.approx(
        list(islice(Arrivals("poisson", 5.0).times(3), 200))
    )
