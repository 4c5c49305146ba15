from __future__ import annotations

from bench.quality.resampling import FEWEST_PAIRS, Estimate, bootstrap_mean, verdict


def test_a_bootstrap_interval_holds_the_mean_and_shrinks_with_more_values() -> None:
    few, many = (bootstrap_mean([float(n % 7) for n in range(count)]) for count in (14, 1400))

    assert few.low < few.value < few.high
    assert few.value == many.value == 3
    assert many.high - many.low < (few.high - few.low) / 5


def test_few_pairs_allow_no_conclusion() -> None:
    change = Estimate(1.2, 1.1, 1.3)

    said = [
        verdict(change, pairs=pairs, equal=1.0, higher_is_better=False)
        for pairs in (FEWEST_PAIRS - 1, FEWEST_PAIRS)
    ]

    assert said == ["no conclusion", "worse"]
