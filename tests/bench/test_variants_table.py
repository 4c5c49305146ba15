from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest

from bench.variants.chart import to_svg
from bench.variants.figures import drift, to_entry
from bench.variants.measuring import Run
from bench.variants.rounds import Findings
from bench.variants.table import to_markdown
from bench.variants.variant import Variant


def run_of(
    number: int, speed: float, *, perplexity: float | None = None, gpus: tuple[float, ...] = ()
) -> Run:
    """A run as it is after a measurement."""
    times = {"p50": 700.0, "p95": 1200.0, "p99": 1400.0}
    quality = None
    if perplexity is not None:
        bounds = {"low": perplexity - 1, "high": perplexity + 1}
        quality = {"perplexity": {"value": perplexity, **bounds}}
    return Run(
        round=number,
        start_s=30.0,
        report={
            "throughput": {"total_tokens_per_s": speed},
            "latency_ms": {"ttft": times, "tpot": times, "e2el": None},
            "requests": {"failed": 0, "warmup_failed": 0},
        },
        utilization={
            "memory_peak": 2 * 1024**3,
            "cores_mean": 1.5,
            "cores_peak": 2.0,
            "gpus": [{"utilization_mean": share, "memory_peak": 1024**3} for share in gpus],
        },
        quality=quality,
    )


def record_of(**runs: list[Run]) -> dict[str, Any]:
    baseline = next(iter(runs.values()))
    return {
        "started_at": "2026-01-02T03:04:05+00:00",
        "variants": [to_entry(Variant(name), some, baseline) for name, some in runs.items()],
        "drift": None,
    }


def test_failed_requests_of_all_rounds_are_counted_and_failed_quality_is_a_failure() -> None:
    runs = [run_of(1, 100.0), run_of(2, 100.0), run_of(3, 100.0)]
    whole = Findings({"base": list(runs)})
    unmeasured = Findings({"base": [replace(runs[0], quality={"error": "no"}), *runs[1:]]})
    runs[1] = replace(runs[1], report={**(runs[1].report or {}), "requests": {"failed": 7}})

    [entry] = record_of(base=runs)["variants"]

    assert entry["figures"]["failed_requests"] == 7
    assert not whole.anything_failed
    assert unmeasured.anything_failed


def test_a_row_is_the_median_of_the_rounds_and_compares_within_them() -> None:
    base = [run_of(1, 100.0), run_of(2, 50.0), run_of(3, 200.0)]
    fast = [run_of(1, 200.0), run_of(2, 100.0), Run(3, error="it died")]

    entries = record_of(base=base, fast=fast)["variants"]

    assert entries[0]["figures"]["total_tokens_per_s"] == 100
    assert entries[1]["figures"]["total_tokens_per_s"] == 150
    assert entries[1]["figures"]["speed_ratio"] == 2
    assert entries[1]["reason"] is None


def test_a_round_that_could_not_be_measured_is_told() -> None:
    text = to_markdown(record_of(base=[run_of(1, 1.0), Run(2, error="it died\nof\nthirst")]), None)

    assert "**base**: not measured in round 2: it died thirst" in text


def test_drift_is_what_the_baseline_lost_from_beginning_to_end() -> None:
    base = [run_of(1, 100.0), run_of(2, 500.0)]

    assert drift(base, run_of(3, 90.0)) == pytest.approx(0.9)
    assert drift(base, None) is None
    assert drift(base, Run(3, error="it died")) is None


def test_the_run_before_is_shown_beside_this_one() -> None:
    before = record_of(base=[run_of(1, 90.0, perplexity=13.5)], gone=[run_of(1, 10.0)])
    now = record_of(base=[run_of(1, 100.0, perplexity=13.07)], new=[run_of(1, 150.0)])

    text, svg = to_markdown(now, before), to_svg(now, before)

    row = next(line for line in text.splitlines() if line.startswith("| base"))
    assert "100.0 (90.0)" in row
    assert "13.07 [12.07, 14.07] (13.50 [12.50, 14.50])" in row
    assert "700 / 1,200 / 1,400" in row
    assert "| new | 150.0 | 1.50 |" in text
    assert "gone" not in text
    assert "2026-01-02 03:04" in text
    assert svg.count("stroke-dasharray") == 1
    assert "stroke-dasharray" not in to_svg(now, None)


def test_columns_nobody_has_figures_for_are_left_out() -> None:
    without = to_markdown(record_of(base=[run_of(1, 1.0)]), None)
    together = to_markdown(record_of(base=[run_of(1, 1.0, gpus=(0.5, 0.7))]), None)

    assert "GPU" not in without
    assert "perplexity" not in without
    assert "| 60% | 2.00 |" in together


def test_a_picture_without_any_speed_is_still_one() -> None:
    root = ET.fromstring(to_svg(record_of(base=[Run(1, error="no engine")]), None))

    assert "not measured" in "".join(root.itertext())
