"""Ranges, knees, bisection, objectives, pictures: what a sweep is made of."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reports import svg
from bench.reports.page import html_page
from bench.sweep.chart import to_svg
from bench.sweep.knee import find_knee, kneedle
from bench.sweep.measuring import there_and_back
from bench.sweep.objectives import Attainment, Objectives
from bench.sweep.points import Point
from bench.sweep.ranges import Load, concurrencies, rates
from bench.sweep.search import bracket

SVG = "{http://www.w3.org/2000/svg}"


def values(loads: Sequence[Load]) -> list[float]:
    return [load.value for load in loads]


def point(load: float, *speeds: float) -> Point:
    """A point of rounds with these total tokens a second."""
    records: list[dict[str, Any]] = [
        {
            "throughput": {"total_tokens_per_s": speed},
            "latency_ms": {"ttft": {"p50": 2.0, "p95": 3.0}, "e2el": {"p50": 9.0}},
            "requests": {"succeeded": 8, "failed": 0},
        }
        for speed in speeds
    ]
    return Point(Load("concurrency", load), tuple(records))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:64:x2", [1, 2, 4, 8, 16, 32, 64]),
        ("1:10:+3", [1, 4, 7, 10]),
        ("1:6:x1.5", [1, 2, 3, 5]),
        ("3:20:x2", [3, 6, 12]),
        ("8,1,4,4", [1, 4, 8]),
        ("7", [7]),
    ],
)
def test_a_range_of_concurrencies_is_whole_numbers_without_repetition(
    text: str, expected: list[int]
) -> None:
    assert values(concurrencies(text)) == expected


def test_a_range_of_rates_holds_its_end_whatever_floating_point_makes_of_it() -> None:
    assert values(rates("0.1:0.3:+0.1")) == [0.1, 0.2, 0.3]
    assert values(rates("0.5:4:x2")) == [0.5, 1, 2, 4]


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "1:64", "1:64:2", "1:2:3:4", "64:1:x2", "1:8:x1", "0:8:x2", "1:8:+0"),
        *("0,1", "1:1000000:+1", "nan", "1:inf:x2"),
    ],
)
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        concurrencies(text)


@pytest.mark.parametrize("text", ["0", "-1,2", "0:1:+0.5"])
def test_a_rate_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        rates(text)


def test_rounds_go_up_and_down_in_turn() -> None:
    loads = concurrencies("1,2,4")

    assert values(there_and_back(loads, 3)) == [1, 2, 4, 4, 2, 1, 1, 2, 4]


def test_the_knee_of_the_papers_own_curve_is_where_the_paper_has_it() -> None:
    # Satopää et al. 2011, figure 2: y = 5 - 1 / (x + 0.1) at ten points from 0 to 1.
    xs = [n / 9 for n in range(10)]

    at = kneedle(xs, [5 - 1 / (x + 0.1) for x in xs])

    assert at is not None
    assert xs[at] == pytest.approx(0.22, abs=0.005)


def test_the_knee_is_where_throughput_stops_to_grow() -> None:
    points = [point(n, 100 * min(n, 32)) for n in (1, 2, 4, 8, 16, 32, 64, 128)]

    knee = find_knee(points)

    assert knee.load == Load("concurrency", 32)
    assert "concurrency 128" in knee.reason


def test_throughput_that_falls_after_its_peak_has_its_knee_there() -> None:
    found = find_knee([point(n, y) for n, y in ((1, 90), (2, 170), (4, 300), (8, 240), (16, 150))])

    assert found.load == Load("concurrency", 4)


@pytest.mark.parametrize("curve", [lambda n: 100 * n, lambda n: n * n])
def test_throughput_that_grows_to_the_end_has_no_knee_in_the_range(
    curve: Callable[[int], float],
) -> None:
    found = find_knee([point(n, curve(n)) for n in (1, 2, 4, 8, 16)])

    assert found.load is None
    assert "still grows" in found.reason


def test_a_bend_smaller_than_the_rounds_spread_is_no_knee() -> None:
    bent = {1: 100.0, 2: 180.0, 3: 210.0, 4: 220.0, 5: 225.0}

    sure = find_knee([point(n, y) for n, y in bent.items()])
    unsure = find_knee([point(n, y - 60, y, y + 60) for n, y in bent.items()])

    assert sure.load is not None
    assert unsure.load is None


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_noise_on_a_flat_curve_is_no_knee(rounds: int) -> None:
    rng = random.Random(7)
    loads = (1, 2, 4, 8, 16, 32, 64)
    curves = [
        [point(n, *(rng.gauss(1000, 10) for _ in range(rounds))) for n in loads] for _ in range(200)
    ]

    # The usual level of significance; what is expected is at most one in fifty.
    assert sum(find_knee(curve).load is not None for curve in curves) < 0.05 * len(curves)


def test_flat_throughput_and_too_few_points_have_no_knee() -> None:
    flat = [point(n, 99, 100, 101) for n in (1, 2, 4, 8)]

    assert "no more over the loads than between rounds" in find_knee(flat).reason
    assert find_knee(flat).load is None
    assert "too few" in find_knee(flat[:3]).reason


@given(st.integers(1, 200), st.integers(0, 200), st.sampled_from([2, 3, 10]))
def test_bisection_ends_at_the_highest_concurrency_that_meets(
    last: int, limit: int, factor: int
) -> None:
    loads = concurrencies(f"1:{max(last, 2)}:x{factor}")
    met = {load: load.value <= limit for load in loads}
    measured = 0

    while (load := bracket(met).middle()) is not None:
        met[load] = load.value <= limit
        measured += 1

    found = bracket(met)
    assert measured <= 8
    if found.met is not None and found.missed is not None:
        assert (found.met.value, found.missed.value) == (limit, limit + 1)
    else:
        assert limit < 1 or limit >= loads[-1].value


@given(st.floats(0.01, 50), st.floats(1.1, 20), st.floats(0, 1))
def test_bisection_of_rates_ends_close_to_the_highest(
    low: float, factor: float, share: float
) -> None:
    limit = low * (1 + share * (factor - 1) * 0.99)
    met = {Load("rate", low): True, Load("rate", low * factor): False}

    while (load := bracket(met).middle()) is not None:
        assert load not in met
        met[load] = load.value <= limit

    found = bracket(met)
    assert found.met is not None
    assert found.missed is not None
    assert found.met.value <= limit < found.missed.value <= 1.06 * found.met.value


def objectives(*counts: tuple[int, int]) -> Objectives:
    attained = [Attainment(Load("rate", n), good, of) for n, (good, of) in enumerate(counts, 1)]
    return Objectives("TTFT ≤ 500 ms", 0.9, tuple(attained))


def test_objectives_are_met_up_to_the_first_load_that_misses() -> None:
    found = objectives((10, 10), (9, 10), (8, 10), (10, 10))

    assert found.bracket.met == Load("rate", 2)
    assert "rate 2/s; rate 3/s misses" in found.sentence()
    assert "met again: 4/s" in found.sentence()


def test_objectives_met_nowhere_or_everywhere_say_so() -> None:
    assert objectives((0, 10), (5, 10)).sentence().endswith("meets the objectives.")
    assert "Not even rate 1/s" in objectives((0, 10), (10, 10)).sentence()
    assert "met again: 2/s" in objectives((0, 10), (10, 10)).sentence()
    assert "rate 2/s, the highest of the range" in objectives((10, 10), (10, 10)).sentence()


def test_a_share_that_few_requests_cannot_show_is_pointed_out() -> None:
    assert "means every one" in (objectives((8, 8)).remark() or "")
    assert objectives((10, 10)).remark() is None


@given(st.lists(st.floats(0.001, 1e6), min_size=1), st.booleans())
def test_an_axis_holds_every_value_between_its_first_and_last_tick(
    found: list[float], log: bool
) -> None:
    axis = svg.Axis(found, 10, 110, log=log)

    assert all(10 - 1e-6 <= axis.place(value) <= 110 + 1e-6 for value in found)
    assert axis.ticks == sorted(set(axis.ticks))
    assert 2 <= len(axis.ticks) <= 30


def test_the_picture_is_well_formed_and_marks_the_knee() -> None:
    points = [point(n, 95 * min(n, 4), 100 * min(n, 4)) for n in (1, 2, 4, 8, 16)]

    root = ET.fromstring(to_svg("a<b", points, find_knee(points)))

    assert root.findtext(f"{SVG}title") == "a<b"
    assert "knee 4" in [text.text for text in root.iter(f"{SVG}text")]


def test_a_picture_of_nothing_is_still_a_picture() -> None:
    assert ET.fromstring(to_svg("nothing", [], find_knee([]))).tag == f"{SVG}svg"


def test_a_page_holds_its_pictures_and_shows_foreign_html_as_text() -> None:
    page = html_page("a & b", "![x](one.svg)\n\n<script>alert(1)</script>", {"one.svg": "<svg/>"})

    assert "<svg/>" in page
    assert "<script" not in page
    assert "<title>a &amp; b</title>" in page
