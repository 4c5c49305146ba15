"""The roofline, the table of devices, and which precision is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.models import CheckpointFacts, find_facts, kv_bytes_per_token, parse_facts
from engine.planning import (
    GPUS,
    NAMES,
    Ceilings,
    Load,
    Plan,
    PlanError,
    Prediction,
    Rates,
    Row,
    find_gpu,
    find_precisions,
    gpu_platform,
    make_plan,
    predict,
)
from engine.planning.terms import Limit

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"
MISTRAL_AWQ = "solidrust/Mistral-7B-Instruct-v0.3-AWQ"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"
REFERENCE = Load(concurrency=32, input_tokens=128, output_tokens=128)

FAST = Rates(matmul=Limit(1e14), attention=Limit(1e14))

# As published: 80 layers of 8,192 features.
LLAMA_2_70B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "dtype": "float16",
}


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that happens to be downloaded here must not stand in for the shipped facts."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def ceilings(**changed: Any) -> Ceilings:
    """A terabyte and a hundred tera-operations a second, and nothing beside them."""
    return replace(
        Ceilings(
            weights=Limit(1e12),
            cache=Limit(1e12),
            decode=FAST,
            prefill=FAST,
            step_s=0.0,
            token_s=0.0,
        ),
        **changed,
    )


def predicted(
    load: Load, reached: Ceilings, name: str = MISTRAL, step_tokens: int = 2048
) -> Prediction:
    return predict(find_facts(name), EngineConfig(dtype="float16"), reached, load, step_tokens)


def plan_on(gpu: str, name: str = MISTRAL, load: Load = REFERENCE, **options: Any) -> Plan:
    target, gpus = options.pop("target", None), options.pop("gpus", 1)
    return make_plan(find_facts(name), gpu_platform(gpu, gpus), load, target=target, **options)


def row(plan: Plan, precision: str) -> Row:
    return next(each for each in plan.rows if each.precision.name == precision)


def test_a_decode_step_of_few_sequences_takes_as_long_as_reading_weights_and_cache() -> None:
    found = predicted(Load(1, 1000, 1000), ceilings())
    # All weights but the table of embeddings, which is looked up; 128 KiB a token of 1,500.
    weights = 2 * (7_248_023_552 - 32768 * 4096)
    assert found.decode.seconds == pytest.approx((weights + 1500 * 131072) / 1e12)


def test_a_decode_step_of_many_sequences_takes_as_long_as_its_multiplications() -> None:
    facts = find_facts(MISTRAL)
    found = predicted(Load(1000, 1, 1), ceilings(cache=Limit(1e20)))
    # Two operations for each weight that is multiplied: all but the embeddings and the norms.
    norms = (2 * facts.layers + 1) * facts.hidden
    weights = facts.parameters - facts.vocab * facts.hidden - norms
    assert found.decode.terms[0].seconds == pytest.approx(1000 * 2 * weights / 1e14, rel=1e-6)


def test_a_prefill_takes_steps_of_so_many_tokens_and_reads_the_weights_in_each() -> None:
    slow_memory = ceilings(weights=Limit(1e9))
    one = predicted(Load(8, 256, 2), slow_memory, step_tokens=2048).prefill.seconds
    four = predicted(Load(8, 256, 2), slow_memory, step_tokens=512).prefill.seconds
    assert four == pytest.approx(4 * one, rel=0.01)


def test_the_attention_of_a_prefill_grows_with_the_square_of_the_prompt() -> None:
    def attention(tokens: int) -> float:
        slow = ceilings(prefill=replace(FAST, attention=Limit(1e9)))
        return predicted(Load(1, tokens, 2), slow).prefill.terms[1].seconds

    assert attention(4000) == pytest.approx(4 * attention(2000))


def test_a_sliding_window_bounds_what_attention_reads() -> None:
    facts = replace(find_facts(MISTRAL), sliding_window=4096)
    config = EngineConfig(dtype="float16")
    near = predict(facts, config, ceilings(), Load(1, 4096, 2), 2048)
    far = predict(facts, config, ceilings(), Load(1, 30_000, 2), 2048)
    assert far.decode.seconds == near.decode.seconds


def test_a_prompt_longer_than_the_window_attends_to_a_whole_window_after_its_beginning() -> None:
    facts = replace(find_facts(MISTRAL), sliding_window=1000)
    slow = ceilings(prefill=replace(FAST, attention=Limit(1e9)))
    config = EngineConfig(dtype="float16")
    found = predict(facts, config, slow, Load(1, 4000, 2), 2048).prefill.terms[1].seconds
    seen = sum(min(token, 1000) for token in range(4000))
    assert found == pytest.approx(seen * 4 * 32 * 128 * 32 / 1e9, rel=0.001)


def test_throughput_counts_the_prefill_and_every_step_after_the_first_token() -> None:
    found = predicted(REFERENCE, ceilings())
    seconds = found.prefill.seconds + 127 * found.decode.seconds
    assert found.output_tokens_per_s == pytest.approx(32 * 128 / seconds)
    assert found.total_tokens_per_s == pytest.approx(2 * found.output_tokens_per_s)


def test_the_formula_shows_every_number_it_was_computed_from() -> None:
    lines = "\n".join(predicted(REFERENCE, ceilings(token_s=34e-6)).decode.lines())
    assert "decode step of 32 at 192 tokens of context" in lines
    assert "14.2 GB / 1 TB/s = 14.2 ms" in lines
    assert "455 GFLOP / 100 TFLOP/s = 4.55 ms" in lines
    assert "32 tokens x 34 µs -> 1.09 ms" in lines


@given(
    concurrency=st.integers(1, 256),
    tokens=st.integers(1, 4000),
    name=st.sampled_from([MISTRAL, LLAMA_8B, LLAMA_1B]),
)
def test_more_work_never_takes_less_time_and_never_gives_less_in_a_batch(
    concurrency: int, tokens: int, name: str
) -> None:
    less = predicted(Load(concurrency, tokens, 64), ceilings(), name)
    more = predicted(Load(concurrency + 1, tokens, 64), ceilings(), name)
    longer = predicted(Load(concurrency, tokens + 1, 64), ceilings(), name)
    assert more.decode.seconds >= less.decode.seconds
    assert more.prefill.seconds >= less.prefill.seconds
    assert more.decode_tokens_per_s >= less.decode_tokens_per_s * (1 - 1e-9)
    assert longer.decode.seconds >= less.decode.seconds
    assert longer.prefill.seconds >= less.prefill.seconds


def test_the_shares_hold_for_runs_they_were_not_taken_from() -> None:
    """AutoAWQ on a T4 gave 33.9 tokens/s at 128 in and 128 out (casper-hansen/AutoAWQ#92), gpt-fast
    with Llama 2 70B in 8 bits on an A100 19.1 at hardly any context."""
    awq = row(plan_on("t4", MISTRAL_AWQ, Load(1, 128, 128)), "awq").prediction
    assert awq is not None
    assert awq.decode_tokens_per_s == pytest.approx(33.9, rel=0.1)
    facts = parse_facts(LLAMA_2_70B, "published")
    made = make_plan(facts, gpu_platform("a100-80g"), Load(1, 5, 200))
    eight = row(made, "w8a8").prediction
    assert eight is not None
    assert eight.decode_tokens_per_s == pytest.approx(19.1, rel=0.3)


def test_mistral_on_a_t4_needs_fewer_than_16_bits_to_fit() -> None:
    plan = plan_on("t4", target=200)
    assert row(plan, "bf16").ruled_out == "NVIDIA T4 (16 GB, Turing) doesn't compute in bf16"
    sixteen = row(plan, "fp16").memory
    assert sixteen is not None
    assert not sixteen.fits
    assert sixteen.weights > sixteen.budget - sixteen.overhead
    for precision in ("fp8", "w8a8", "awq", "gptq"):
        assert row(plan, precision).reaches(200)
    assert plan.taken is row(plan, "w8a8")


def test_the_published_awq_checkpoint_reaches_200_tokens_per_s_on_a_t4() -> None:
    plan = plan_on("t4", MISTRAL_AWQ, target=200)
    assert plan.taken is row(plan, "awq")
    others = [each for each in plan.rows if each.precision.name != "awq"]
    assert all(each.ruled_out == "the checkpoint is quantized with awq already" for each in others)


def test_it_reaches_them_even_at_the_rate_of_the_slowest_published_kernel() -> None:
    """AutoAWQ's kernel of 2023 took 432 prompt tokens/s on a T4 (casper-hansen/AutoAWQ#92)."""
    facts = find_facts(MISTRAL_AWQ)
    weights = sum(part.inputs * part.outputs for part in facts.layer_linears) * facts.layers
    slow = Limit(432 * 2 * weights)
    platform = gpu_platform("t4")
    found = row(plan_on("t4", MISTRAL_AWQ), "awq")
    assert found.route is not None
    reached = platform.ceilings(found.precision, found.route)
    assert reached is not None
    assert found.config is not None
    rates = replace(reached.decode, matmul=slow)
    worst = predict(
        facts, found.config, replace(reached, decode=rates, prefill=rates), REFERENCE, 2048
    )
    assert 200 < worst.output_tokens_per_s < 250


@pytest.mark.parametrize(
    ("gpu", "how"), [("t4", "weights only"), ("a10", "weights only"), ("l4", "fp8 tensor cores")]
)
def test_fp8_is_computed_from_ada_on_and_only_stored_before(gpu: str, how: str) -> None:
    found = row(plan_on(gpu), "fp8").route
    assert found is not None
    assert how in found.how


def test_sixteen_bits_are_taken_where_they_fit_and_the_checkpoints_own_first() -> None:
    own = plan_on("a10").taken
    assert own is not None
    assert own.precision.name == "bf16"
    halved = replace(find_facts(MISTRAL), dtype="float16")
    taken = make_plan(halved, gpu_platform("a10"), REFERENCE).taken
    assert taken is not None
    assert taken.precision.name == "fp16"


def test_a_target_that_nothing_reaches_takes_nothing_and_tells_the_most() -> None:
    plan = plan_on("t4", target=1e6)
    assert plan.taken is None
    assert plan.best is not None
    assert plan.best.precision.name == "awq"


def test_two_gpus_hold_half_of_the_weights_each_and_are_not_twice_as_fast() -> None:
    one, two = (row(plan_on("a10", gpus=count), "fp16") for count in (1, 2))
    assert one.memory is not None
    assert two.memory is not None
    assert two.memory.weights == pytest.approx(one.memory.weights / 2, rel=0.01)
    assert one.prediction is not None
    assert two.prediction is not None
    assert 1 < one.prediction.decode.seconds / two.prediction.decode.seconds < 2


def test_the_plan_and_the_check_share_one_arithmetic() -> None:
    found = row(plan_on("a10"), "fp16")
    assert found.memory is not None
    assert found.config is not None
    facts = find_facts(MISTRAL)
    assert found.memory.weights == 2 * facts.parameters
    assert found.memory.kv_per_token == kv_bytes_per_token(facts, found.config) == 128 * 1024


@pytest.mark.parametrize("name", GPUS)
def test_a_device_states_its_sources_and_rates_that_go_together(name: str) -> None:
    device = find_gpu(name)
    assert any("datasheet" in source for source in device.sources)
    assert any(source.startswith("memory: ") for source in device.sources)
    assert 0 < device.matmul_share <= 1
    assert device.rates["int8"] == pytest.approx(2 * device.rates["fp16"], rel=0.01)
    assert ("fp8" in device.rates) == (device.capability is not None and device.capability >= 89)
    assert ("bf16" in device.rates) == (device.capability is not None and device.capability >= 80)


def test_an_unknown_device_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(PlanError, match="--gpu v100: not known here; one of t4, a10, l4") as raised:
        find_gpu("v100")
    assert all(name in str(raised.value) for name in NAMES)


def test_an_unknown_precision_or_number_of_gpus_is_refused_with_what_there_is() -> None:
    with pytest.raises(PlanError, match=r"--precision int3: .*auto, bf16, fp16"):
        find_precisions("int3")
    with pytest.raises(PlanError, match="--gpus 3: layers are split over 1, 2, 4, 8"):
        gpu_platform("h100", 3)


@pytest.mark.parametrize(
    ("weights", "activations", "precision"),
    [
        ({"num_bits": 8, "type": "float", "strategy": "channel"}, {"num_bits": 8}, "fp8"),
        ({"num_bits": 8, "type": "int", "strategy": "channel"}, {"num_bits": 8}, "w8a8"),
        ({"num_bits": 4, "strategy": "group", "group_size": 128}, None, "gptq"),
        (
            {"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": False},
            None,
            "awq",
        ),
        ({"num_bits": 8, "type": "int", "strategy": "channel"}, None, None),
    ],
)
def test_compressed_tensors_are_planned_as_what_they_hold(
    weights: dict[str, Any], activations: dict[str, Any] | None, precision: str | None
) -> None:
    groups = {"group_0": {"weights": weights, "input_activations": activations}}
    stored = {"quant_method": "compressed-tensors", "config_groups": groups}
    facts = parse_facts(LLAMA_2_70B | {"quantization_config": stored}, "published")
    made = make_plan(facts, gpu_platform("h200"), REFERENCE)
    runs = [each.precision.name for each in made.rows if not each.ruled_out]
    assert runs == ([precision] if precision else [])


def test_heads_that_the_gpus_can_not_share_rule_every_row_out() -> None:
    facts = replace(find_facts(MISTRAL), heads=6, kv_heads=2)
    made = make_plan(facts, gpu_platform("h100", 4), REFERENCE)
    said = "6 attention heads can't be shared by 4 GPUs"
    assert {each.ruled_out for each in made.rows} == {said}


def test_a_layout_that_is_not_known_is_a_row_that_is_ruled_out() -> None:
    config = LLAMA_2_70B | {"quantization_config": {"quant_method": "fp8"}}
    facts: CheckpointFacts = parse_facts(config, "published")
    made = make_plan(facts, gpu_platform("h200"), REFERENCE)
    assert made.taken is row(made, "fp8")
    unknown = parse_facts(LLAMA_2_70B | {"quantization_config": {"quant_method": "aqlm"}}, "x")
    assert all(each.ruled_out for each in make_plan(unknown, gpu_platform("h200"), REFERENCE).rows)
