"""What may be asked of `quantize`, and what is filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.quantize import METHODS, QuantizeError, SettingsError, choose_settings
from engine.quantize.shapes import choose_group_size, layer_matrices


def matrices(*inputs: int, outputs: int = 64) -> dict[str, tuple[int, int]]:
    return {f"model.layers.{n}.mlp.up.weight": (outputs, count) for n, count in enumerate(inputs)}


@pytest.mark.parametrize(
    ("method", "written"),
    [
        ("awq", "awq"),
        ("gptq", "gptq"),
        ("w8a8", "compressed-tensors"),
        ("fp8", "compressed-tensors"),
    ],
)
def test_each_method_has_a_format_of_its_own(method: Any, written: str) -> None:
    assert choose_settings(method).format == written


def test_only_methods_that_learn_from_text_are_calibrated() -> None:
    calibrated = [method for method in METHODS if choose_settings(method).calibrated]
    assert calibrated == ["awq", "gptq"]
    assert choose_settings("w8a8", smoothquant=True).calibrated


@pytest.mark.parametrize(
    ("method", "asked", "named"),
    [
        ("fp8", {"format": "awq"}, "--format awq"),
        ("awq", {"format": "gptq"}, "awq or compressed-tensors"),
        ("w8a8", {"group_size": 64}, "--group-size"),
        ("awq", {"smoothquant": True}, "--smoothquant"),
        ("fp8", {"samples": 8}, "--samples"),
        ("fp8", {"calibration": True}, "--calibration"),
        ("w8a8", {"sequence_length": 8}, "add --smoothquant"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    method: Any, asked: dict[str, Any], named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        choose_settings(method, **asked)


@pytest.mark.parametrize(
    ("inputs", "size"), [((4096, 14336), 128), ((576, 1536), 64), ((64, 96), 32)]
)
def test_the_largest_group_that_divides_every_layer_is_taken(
    inputs: tuple[int, ...], size: int
) -> None:
    assert choose_group_size(matrices(*inputs)) == size


def test_a_group_that_does_not_divide_is_refused_with_those_that_do() -> None:
    with pytest.raises(SettingsError, match=r"--group-size 128.*576.*use 64 or 32"):
        choose_group_size(matrices(576, 1536), 128)


def test_a_smaller_group_that_divides_is_taken() -> None:
    assert choose_group_size(matrices(576, 1536), 32) == 32


def test_a_model_that_no_group_divides_is_sent_to_eight_bits() -> None:
    with pytest.raises(SettingsError, match="w8a8 or fp8"):
        choose_group_size(matrices(100))


def test_outputs_that_do_not_fill_words_are_sent_to_eight_bits() -> None:
    with pytest.raises(SettingsError, match="12 outputs"):
        choose_group_size(matrices(64, outputs=12))


def test_only_matrices_inside_decoder_layers_count(tmp_path: Path) -> None:
    tensors = {
        "model.embed_tokens.weight": np.zeros((10, 64), np.float16),
        "model.layers.0.mlp.up_proj.weight": np.zeros((96, 64), np.float16),
        "model.layers.0.input_layernorm.weight": np.zeros(64, np.float16),
        "lm_head.weight": np.zeros((10, 64), np.float16),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert layer_matrices(tmp_path) == {"model.layers.0.mlp.up_proj.weight": (96, 64)}


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(QuantizeError, match="not safetensors"):
        layer_matrices(tmp_path)
