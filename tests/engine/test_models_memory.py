"""Facts and memory arithmetic, against numbers published by others."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import EngineConfig, ParallelConfig
from engine.models import (
    CheckpointFacts,
    ModelError,
    device_weight_bytes,
    find_facts,
    kv_bytes_per_token,
    parse_facts,
    plan_memory,
    read_facts,
)

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"
MISTRAL_AWQ = "solidrust/Mistral-7B-Instruct-v0.3-AWQ"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_AWQ = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
LLAMA_SMALL = "meta-llama/Llama-3.2-1B-Instruct"

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "dtype": "float16",
}


@dataclass(frozen=True)
class Machine:
    name: str = "test"
    device: Literal["gpu", "cpu"] = "gpu"
    memory_gib: float = 24.0
    tokens_per_sequence: int = 256


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that happens to be downloaded here must not stand in for the shipped facts."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("smollm2-135m-instruct", 134_515_008),
        (MISTRAL, 7_248_023_552),
        (LLAMA, 8_030_261_248),
        (LLAMA_SMALL, 1_235_814_400),
    ],
)
def test_parameters_are_those_the_hub_states(name: str, parameters: int) -> None:
    assert find_facts(name).parameters == parameters


@pytest.mark.parametrize(("name", "gigabytes"), [(MISTRAL_AWQ, 4.16), (LLAMA_AWQ, 5.73)])
def test_awq_weights_have_the_size_the_hub_lists(name: str, gigabytes: float) -> None:
    assert round(device_weight_bytes(find_facts(name), EngineConfig()) / 1e9, 2) == gigabytes


def test_unquantized_weights_take_two_bytes_each() -> None:
    facts = find_facts(MISTRAL)
    assert device_weight_bytes(facts, EngineConfig()) == 2 * facts.parameters
    assert device_weight_bytes(facts, EngineConfig(dtype="float32")) == 4 * facts.parameters


def test_a_token_of_mistral_keeps_128_kib() -> None:
    facts = find_facts(MISTRAL)
    assert kv_bytes_per_token(facts, EngineConfig()) == 128 * 1024
    assert kv_bytes_per_token(facts, EngineConfig(kv_cache_dtype="fp8")) == 64 * 1024


@pytest.mark.parametrize("name", [MISTRAL, LLAMA_AWQ, LLAMA_SMALL])
def test_tensor_parallelism_splits_all_but_the_norms(name: str) -> None:
    facts = find_facts(name)
    whole = device_weight_bytes(facts, EngineConfig())
    half = device_weight_bytes(facts, EngineConfig(parallel=ParallelConfig(tensor=2)))
    norms = (2 * facts.layers + 1) * facts.hidden * 2
    assert half == (whole - norms) // 2 + norms


def test_more_devices_than_kv_heads_copy_the_heads() -> None:
    facts = find_facts(MISTRAL)
    sixteen = EngineConfig(parallel=ParallelConfig(tensor=16))
    eight = EngineConfig(parallel=ParallelConfig(tensor=8))
    assert kv_bytes_per_token(facts, sixteen) == kv_bytes_per_token(facts, eight) == 16 * 1024


def test_a_pipeline_stage_holds_its_share_of_the_layers() -> None:
    facts = find_facts(MISTRAL)
    halves = EngineConfig(parallel=ParallelConfig(pipeline=2))
    assert kv_bytes_per_token(facts, halves) == 64 * 1024
    assert 2 * device_weight_bytes(facts, halves) == pytest.approx(2 * facts.parameters, rel=1e-4)


def test_online_fp8_halves_the_linear_layers_only() -> None:
    facts = find_facts(MISTRAL)
    embeddings = 2 * facts.vocab * facts.hidden * 2
    linears = 2 * facts.parameters - embeddings
    quantized = device_weight_bytes(facts, EngineConfig(quantization="fp8"))
    assert quantized == pytest.approx(embeddings + linears / 2, rel=0.002)


def test_exact_file_sizes_win_over_arithmetic_where_nothing_is_changed() -> None:
    facts = replace(parse_facts(CONFIG, "test"), stored_bytes=12_345)
    assert device_weight_bytes(facts, EngineConfig()) == 12_345
    assert device_weight_bytes(facts, EngineConfig(dtype="float32")) > 12_345


@pytest.mark.parametrize(
    ("quantization", "bits_per_weight"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 4.15625),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}, 4.3125),
        ({"quant_method": "fp8"}, 8.0),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 4, "strategy": "group", "group_size": 128}}
                },
            },
            4.125,
        ),
    ],
)
def test_bits_per_weight_of_each_layout(
    quantization: dict[str, Any], bits_per_weight: float
) -> None:
    shape = CONFIG | {"num_key_value_heads": 8, "intermediate_size": 4096}
    facts = parse_facts(shape | {"quantization_config": quantization}, "test")
    linears = sum(part.inputs * part.outputs for part in facts.layer_linears) * facts.layers
    rest = 2 * (facts.parameters - linears)
    stored = 8 * (device_weight_bytes(facts, EngineConfig()) - rest) / linears
    assert stored == pytest.approx(bits_per_weight, rel=0.02)


def test_an_unknown_layout_is_said_to_be_unknown_unless_the_files_tell() -> None:
    facts = parse_facts(CONFIG | {"quantization_config": {"quant_method": "aqlm"}}, "test")
    with pytest.raises(ModelError, match="layout of aqlm is not known"):
        device_weight_bytes(facts, EngineConfig())
    assert device_weight_bytes(replace(facts, stored_bytes=999), EngineConfig()) == 999


@pytest.mark.parametrize("asked", ["gptq", "compressed-tensors"])
def test_a_quantization_the_checkpoint_does_not_have_is_refused(asked: str) -> None:
    with pytest.raises(ModelError, match=f"quantized with awq, not {asked}"):
        device_weight_bytes(find_facts(MISTRAL_AWQ), EngineConfig(quantization=asked))
    with pytest.raises(ModelError, match="is not quantized"):
        device_weight_bytes(find_facts(MISTRAL), EngineConfig(quantization=asked))


def test_an_unknown_architecture_is_not_guessed_at() -> None:
    with pytest.raises(ModelError, match=r"LlamaForCausalLM.*this is Qwen3MoeForCausalLM"):
        parse_facts(CONFIG | {"architectures": ["Qwen3MoeForCausalLM"]}, "test")


def test_a_model_nobody_knows_says_how_to_make_it_known() -> None:
    with pytest.raises(ModelError, match="Download it first"):
        find_facts("org/unheard-of")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "vocab_size"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lacks 'vocab_size'"):
        read_facts(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_attention_heads": 0},
        {"vocab_size": -1},
        {"hidden_size": "wide"},
        {"num_hidden_layers": 1e999},
        {"quantization_config": [4]},
        {"architectures": 7},
    ],
)
def test_a_config_that_makes_no_model_is_said_to_be_wrong(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changed))
    with pytest.raises(ModelError):
        read_facts(tmp_path)


def test_a_config_that_is_no_object_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds no JSON object"):
        read_facts(tmp_path)


def test_a_hub_that_can_not_be_reached_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise httpx2.ProxyError("407 Proxy Authentication Required")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelError, match=r"can't be fetched \(407 Proxy"):
        find_facts("org/unheard-of", online=True)


def test_spare_sequences_are_sampled_too() -> None:
    none, some = (
        plan_memory(find_facts(MISTRAL), EngineConfig(max_num_seqs=32, spare_seqs=spare), Machine())
        for spare in (0, 4)
    )
    assert some.overhead - none.overhead == 4 * 32768 * 30
    assert some.kv_needed == none.kv_needed


def test_the_mistral_format_tells_the_same_facts(tmp_path: Path) -> None:
    published = {
        "dim": 4096,
        "n_layers": 32,
        "head_dim": 128,
        "hidden_dim": 14336,
        "n_heads": 32,
        "n_kv_heads": 8,
        "norm_eps": 1e-05,
        "vocab_size": 32768,
        "rope_theta": 1000000.0,
    }
    (tmp_path / "params.json").write_text(json.dumps(published))
    facts = read_facts(tmp_path)
    assert replace(facts, source="") == replace(find_facts(MISTRAL), source="")


def test_a_downloaded_config_wins_over_the_shipped_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub/models--mistralai--Mistral-7B-Instruct-v0.3/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert find_facts(MISTRAL).source == str(snapshot)


def test_a_plan_adds_up() -> None:
    facts = find_facts(MISTRAL)
    config = EngineConfig(max_model_len=4096, max_num_seqs=32)
    plan = plan_memory(facts, config, Machine())
    assert plan.kv_needed == 32 * 256 * 128 * 1024 == 1 << 30
    assert plan.kv_available == plan.budget - plan.weights - plan.overhead
    assert plan.max_sequences == plan.kv_available // (256 * 128 * 1024)
    assert plan.fits
    assert ("fits", "yes") in plan.rows()


def test_sequences_round_up_to_whole_blocks() -> None:
    config = EngineConfig(max_model_len=4096, max_num_seqs=1, block_size=16)
    plan = plan_memory(find_facts(MISTRAL), config, Machine(tokens_per_sequence=17))
    assert plan.kv_needed == 32 * plan.kv_per_token


def test_a_sliding_window_bounds_what_a_sequence_keeps() -> None:
    facts = replace(find_facts(MISTRAL), sliding_window=64)
    config = EngineConfig(max_model_len=4096, max_num_seqs=1, block_size=16)
    plan = plan_memory(facts, config, Machine(tokens_per_sequence=2000))
    assert plan.kv_needed == (64 + 16) * plan.kv_per_token


@pytest.mark.parametrize(
    ("settings", "machine", "problem"),
    [
        ({"max_num_seqs": 512}, Machine(tokens_per_sequence=1024), "lacks"),
        ({}, Machine(memory_gib=12), "alone exceed the budget"),
        ({"max_model_len": 32768, "gpu_memory_utilization": 0.75}, Machine(), "one sequence"),
        ({"max_model_len": 65536}, Machine(), "exceeds the model's 32768 positions"),
        ({"kv_cache_gib": 20.0}, Machine(), "kv_cache_gib 20 exceeds"),
        ({"max_model_len": 128}, Machine(), "tokens_per_sequence 256 exceeds max_model_len 128"),
    ],
)
def test_what_does_not_fit_is_said_with_its_reason(
    settings: dict[str, Any], machine: Machine, problem: str
) -> None:
    config = EngineConfig.model_validate({"max_model_len": 4096, "max_num_seqs": 8} | settings)
    plan = plan_memory(find_facts(MISTRAL), config, machine)
    assert not plan.fits
    assert any(problem in found for found in plan.problems)


def test_the_overhead_covers_what_vllm_measured() -> None:
    """vLLM logged an activation peak of 1.26 GiB for Llama 3 8B at these settings."""
    facts = find_facts(LLAMA)
    config = EngineConfig(
        max_model_len=8192, max_num_seqs=256, max_num_batched_tokens=8192, compile="off"
    )
    plan = plan_memory(facts, config, Machine(memory_gib=79.22))
    assert 1.26 * 2**30 < plan.overhead < 4 * 2**30


shapes = st.builds(
    lambda layers, heads, group, vocab: parse_facts(
        CONFIG
        | {
            "num_hidden_layers": layers,
            "num_attention_heads": heads * group,
            "num_key_value_heads": heads,
            "head_dim": 64,
            "vocab_size": vocab,
        },
        "generated",
    ),
    st.integers(1, 80),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4]),
    st.integers(1000, 200_000),
)


@given(
    facts=shapes,
    sequences=st.integers(1, 512),
    tokens=st.integers(1, 4096),
    memory=st.floats(0.5, 192),
)
def test_asking_for_less_never_stops_fitting(
    facts: CheckpointFacts, sequences: int, tokens: int, memory: float
) -> None:
    def plan(sequences: int, tokens: int, memory: float, tensor: int = 1) -> bool:
        config = EngineConfig(max_num_seqs=sequences, parallel=ParallelConfig(tensor=tensor))
        machine = Machine(memory_gib=memory, tokens_per_sequence=tokens)
        found = plan_memory(facts, config, machine)
        assert found.fits == (found.problems == ())
        assert not found.fits or found.max_sequences >= sequences
        return found.fits

    if plan(sequences, tokens, memory):
        assert plan(max(1, sequences - 1), tokens, memory)
        assert plan(sequences, max(1, tokens - 1), memory)
        # Not across 70 GiB, where vLLM's default step grows.
        assert memory < 70 <= memory + 1 or plan(sequences, tokens, memory + 1)
