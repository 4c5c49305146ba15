"""4-bit layouts: what a layer means is the same in every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.models import read_facts
from engine.quantize import QuantizeError
from engine.quantize.export import INDEX, export
from engine.quantize.packing import AWQ_ORDER, STRAIGHT, pack, to_awq, to_gptq, unpack
from tests.support.int4 import compressed_layer, dequantized, read_awq, read_gptq

GROUP = 32
Layer = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], torch.Tensor]


def layer(seed: int, outputs: int, inputs: int, *, symmetric: bool = False) -> Layer:
    """Random nibbles, zero points and scales, as a quantizer leaves them."""
    source = np.random.default_rng(seed)
    quantized = source.integers(0, 16, (outputs, inputs))
    zeros = source.integers(0, 16, (outputs, inputs // GROUP))
    if symmetric:
        zeros[:] = 8
    scales = torch.from_numpy(source.uniform(1e-4, 0.1, zeros.shape)).to(torch.bfloat16)
    return quantized, zeros, scales


shapes = st.tuples(st.integers(1, 4).map(lambda n: 8 * n), st.integers(1, 3).map(lambda n: 32 * n))
seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, shape=shapes, order=st.sampled_from([STRAIGHT, AWQ_ORDER]))
def test_what_is_packed_comes_back(seed: int, shape: tuple[int, int], order: Any) -> None:
    nibbles = torch.from_numpy(np.random.default_rng(seed).integers(0, 16, shape)).to(torch.int32)
    words = pack(nibbles, order)
    assert words.shape == (shape[0], shape[1] // 8)
    assert torch.equal(unpack(words, order), nibbles)


@given(seed=seeds, shape=shapes)
def test_an_awq_layer_means_exactly_what_it_was_made_from(
    seed: int, shape: tuple[int, int]
) -> None:
    made_from = layer(seed, *shape)
    made = to_awq(compressed_layer(*made_from))
    outputs, inputs = shape
    assert made["qweight"].shape == (inputs, outputs // 8)
    assert made["qzeros"].shape == (inputs // GROUP, outputs // 8)
    assert made["scales"].dtype == torch.float16
    np.testing.assert_array_equal(read_awq(made), dequantized(*made_from))


@given(seed=seeds, shape=shapes)
def test_a_gptq_layer_means_exactly_what_it_was_made_from(
    seed: int, shape: tuple[int, int]
) -> None:
    made_from = layer(seed, *shape, symmetric=True)
    compressed = compressed_layer(*made_from)
    del compressed["weight_zero_point"]
    made = to_gptq(compressed)
    assert made["qweight"].shape == (shape[1] // 8, shape[0])
    np.testing.assert_array_equal(read_gptq(made), dequantized(*made_from))


def test_a_scale_that_float16_can_not_hold_is_refused_with_the_way_out() -> None:
    quantized, zeros, scales = layer(0, 8, 32)
    scales[0, 0] = 1e6
    with pytest.raises(QuantizeError, match="--format compressed-tensors"):
        to_awq(compressed_layer(quantized, zeros, scales))


# A whole checkpoint

MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[Path, Layer]:
    """One quantized layer whose tensors lie in two files."""
    made_from = layer(1, 16, 64)
    parts = {f"{MODULE}.{name}": one for name, one in compressed_layer(*made_from).items()}
    first = {f"{MODULE}.weight_packed": parts.pop(f"{MODULE}.weight_packed")}
    first["model.embed_tokens.weight"] = torch.ones(4, 64, dtype=torch.bfloat16)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    save_file(first, tmp_path / names[0])
    save_file(parts, tmp_path / names[1])
    where = dict.fromkeys(first, names[0]) | dict.fromkeys(parts, names[1])
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "bfloat16",
        "num_attention_heads": 2,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "intermediate_size": 128,
        "vocab_size": 4,
        "max_position_embeddings": 128,
        "quantization_config": {"quant_method": "compressed-tensors"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, made_from


def test_a_layer_spread_over_two_files_is_exported_whole(sharded: tuple[Path, Layer]) -> None:
    path, made_from = sharded
    export(path, "awq", GROUP)
    tensors: dict[str, torch.Tensor] = {}
    for file in path.glob("*.safetensors"):
        tensors |= load_file(file)
    assert set(tensors) == {
        "model.embed_tokens.weight",
        *(f"{MODULE}.{part}" for part in ("qweight", "qzeros", "scales")),
    }
    made = {name.rpartition(".")[2]: one for name, one in tensors.items()}
    np.testing.assert_array_equal(read_awq(made), dequantized(*made_from))
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16


def test_the_index_names_the_tensors_that_are_there(sharded: tuple[Path, Layer]) -> None:
    path, _ = sharded
    export(path, "awq", GROUP)
    index = json.loads((path / INDEX).read_text())["weight_map"]
    for file in path.glob("*.safetensors"):
        held = load_file(file)
        assert {name for name, where in index.items() if where == file.name} == set(held)


@pytest.mark.parametrize("target", ["awq", "gptq"])
def test_an_exported_checkpoint_says_what_it_is(sharded: tuple[Path, Layer], target: Any) -> None:
    path, _ = sharded
    export(path, target, GROUP)
    facts = read_facts(path)
    assert facts.dtype == "float16"
    assert facts.quantization is not None
    assert (facts.quantization.method, facts.quantization.bits) == (target, 4)
    assert facts.quantization.group_size == GROUP
