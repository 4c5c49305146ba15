from __future__ import annotations

from dataclasses import replace

import pytest

from bench.client import Sample
from bench.errors import BenchError
from bench.measuring.slo import Slo, parse_slo

# TTFT 500 ms, TPOT 100 ms, E2EL 1500 ms.
SAMPLE = Sample(10, 11, None, ttft_s=0.5, e2el_s=1.5)


def test_objectives_are_read_and_the_last_of_a_kind_holds() -> None:
    assert parse_slo([]) == Slo()
    assert not parse_slo([]).given
    assert parse_slo(["ttft=500", "tpot=50.5", "ttft=400"]) == Slo(ttft_ms=400, tpot_ms=50.5)


@pytest.mark.parametrize(
    "wrong", ["ttft", "ttft=", "ttft=fast", "ttft=0", "ttft=nan", "ttft=inf", "itl=5"]
)
def test_anything_else_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(BenchError, match="--slo ttft=500"):
        parse_slo([wrong])


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (Slo(), True),
        (Slo(ttft_ms=500.001, tpot_ms=100.001, e2el_ms=1500.001), True),
        (Slo(ttft_ms=499), False),
        (Slo(tpot_ms=99), False),
        (Slo(e2el_ms=1499), False),
        (Slo(ttft_ms=600, e2el_ms=1499), False),
    ],
)
def test_an_answer_is_good_when_it_meets_all_of_them(slo: Slo, met: bool) -> None:
    assert slo.met_by(SAMPLE) is met


def test_being_sent_late_counts_for_its_user() -> None:
    slo = Slo(ttft_ms=600, tpot_ms=101, e2el_ms=1600)

    assert slo.met_by(SAMPLE, late_s=0.09)
    assert not slo.met_by(SAMPLE, late_s=0.11)


def test_one_token_has_no_time_per_output_token_and_meets_any() -> None:
    assert Slo(tpot_ms=1).met_by(replace(SAMPLE, completion_tokens=1))


def test_a_time_that_was_not_measured_meets_no_objective() -> None:
    assert not Slo(ttft_ms=1000).met_by(replace(SAMPLE, ttft_s=None))
