"""What is measured of a CPU, and what becomes of it in a plan."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from engine.models import find_facts
from engine.planning import (
    Load,
    Machine,
    PlanError,
    Reached,
    cpu_platform,
    make_plan,
    measure,
    shapes_of,
)

EMBEDDED = "smollm2-135m-instruct"
LOAD = Load(concurrency=2, input_tokens=32, output_tokens=16)
REACHED = Reached(
    bandwidth=20e9,
    matmul=300e9,
    prefill=600e9,
    attention=25e9,
    prefill_attention=50e9,
    operator_s=40e-6,
    prefill_operator_s=400e-6,
)


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to be converted or downloaded here must not change the outcome."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def machine(load: Load = LOAD, **reached: Reached) -> Machine:
    shapes = shapes_of(find_facts(EMBEDDED), load)
    return Machine(memory_gib=16.0, threads=2, shapes=shapes, reached=reached)


def test_a_step_on_a_cpu_is_products_attention_and_the_time_between_operators() -> None:
    load = Load(32, 128, 128)
    platform = cpu_platform(machine(load, bf16=REACHED))
    row = make_plan(find_facts(EMBEDDED), platform, load).rows[0]
    assert row.prediction is not None
    seconds = {term.name: term.seconds for term in row.prediction.decode.terms}
    assert list(seconds) == ["weights", "attention", "engine", "tokens", "calls", "operators"]
    # 32 tokens x 2 operations x 134 million weights at 300 GFLOP/s; 30 layers of 5 operators.
    assert seconds["weights"] == pytest.approx(32 * 2 * 134.48e6 / 300e9, rel=0.001)
    assert seconds["operators"] == pytest.approx(30 * 5 * 40e-6)


def test_prefills_have_rates_of_their_own() -> None:
    slower = replace(REACHED, prefill=REACHED.prefill / 2)
    found = [
        make_plan(find_facts(EMBEDDED), cpu_platform(machine(bf16=each)), LOAD).rows[0].prediction
        for each in (REACHED, slower)
    ]
    fast, slow = found
    assert fast is not None
    assert slow is not None
    assert slow.prefill.seconds > fast.prefill.seconds
    assert slow.decode.seconds == fast.decode.seconds


def test_a_format_that_was_not_measured_is_ruled_out_or_its_speed_is_unknown() -> None:
    plan = make_plan(find_facts(EMBEDDED), cpu_platform(machine(bf16=REACHED)), LOAD)
    rows = {row.precision.name: row for row in plan.rows}
    assert rows["fp16"].ruled_out == "this CPU, 2 threads doesn't compute in fp16"
    assert rows["w8a8"].fits
    assert rows["w8a8"].prediction is None
    assert plan.taken is rows["bf16"]
    assert rows["fp8"].fits
    with_target = make_plan(plan.facts, plan.platform, LOAD, target=1e9)
    assert with_target.taken is None


def test_layers_are_measured_at_the_sizes_of_the_load() -> None:
    shapes = shapes_of(find_facts(EMBEDDED), Load(32, 128, 128))
    assert shapes.linears == [(576, 960), (576, 576), (576, 3072), (1536, 576)]
    assert (shapes.sequences, shapes.context) == (32, 192)
    assert (shapes.rows, shapes.prompts, shapes.prompt) == (256, 2, 128)
    long = shapes_of(find_facts(EMBEDDED), Load(4, 5000, 10))
    assert (long.rows, long.prompts, long.prompt) == (256, 1, 2048)
    short = shapes_of(find_facts(EMBEDDED), Load(1, 10, 10))
    assert (short.rows, short.prompts, short.prompt) == (10, 1, 10)


def test_a_measurement_that_fails_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.planning.cpu.sys.executable", "/bin/false")
    with pytest.raises(PlanError, match=r"can't be measured: .*requirements/cpu\.lock.*--gpu"):
        measure(find_facts(EMBEDDED), LOAD)


@pytest.mark.engine
def test_this_machine_is_measured_with_the_engines_own_kernels() -> None:
    found = measure(find_facts(EMBEDDED), LOAD, bandwidth_gb=12.5)
    assert found.reached
    for reached in found.reached.values():
        assert all(getattr(reached, field.name) > 0 for field in fields(Reached))
        assert reached.bandwidth == 12.5e9
    row = make_plan(find_facts(EMBEDDED), cpu_platform(found), LOAD).taken
    assert row is not None
    assert row.prediction is not None
    assert "12.5 GB/s" in "\n".join(row.prediction.decode.lines())
