"""Rewrite a compressed-tensors checkpoint in AWQ's or GPTQ's own format, in place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.models.directory import weight_files
from engine.quantize.errors import QuantizeError
from engine.quantize.packing import Tensors, to_awq, to_gptq
from engine.quantize.settings import Format

INDEX = "model.safetensors.index.json"
_PACKED = "weight_packed"
# What a quantized layer holds beside its packed weights.
_PARTS = (_PACKED, "weight_scale", "weight_zero_point")
_GONE = (*_PARTS, "weight_shape")


def export(checkpoint: Path, target: Format, group_size: int) -> None:
    """Convert shard by shard; what isn't quantized becomes float16, as both formats have it.

    Raises QuantizeError: float16 can't hold a value.
    """
    names = weight_files(file.name for file in checkpoint.iterdir())
    shards = [_open(checkpoint / name) for name in names]
    # A layer's tensors may be spread over two shards.
    where = {key: shard for shard in shards for key in shard.keys()}  # noqa: SIM118
    weight_map: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        tensors = _converted(shard, where, target)
        weight_map |= dict.fromkeys(tensors, name)
        _replace(checkpoint / name, tensors)
    if (checkpoint / INDEX).is_file():
        _rewrite_index(checkpoint, weight_map)
    _rewrite_config(checkpoint, target, group_size)


def _converted(shard: Any, where: Mapping[str, Any], target: Format) -> Tensors:
    tensors: Tensors = {}
    for key in shard.keys():  # noqa: SIM118
        module, _, part = key.rpartition(".")
        if part == _PACKED:
            names = {one: f"{module}.{one}" for one in _PARTS if f"{module}.{one}" in where}
            layer = {one: where[name].get_tensor(name) for one, name in names.items()}
            made = to_awq(layer) if target == "awq" else to_gptq(layer)
            tensors |= {f"{module}.{one}": tensor for one, tensor in made.items()}
        elif part not in _GONE:
            tensors[key] = _half(key, shard.get_tensor(key))
    return tensors


def _half(key: str, tensor: torch.Tensor) -> torch.Tensor:
    halves = tensor.to(torch.float16)
    if not bool(torch.isfinite(halves).all()):
        raise QuantizeError(
            f"{key} has values that float16 can't hold, which this format stores; write the "
            "checkpoint with --format compressed-tensors"
        )
    return halves


def _open(path: Path) -> Any:
    return safe_open(path, framework="pt")


def _replace(path: Path, tensors: Tensors) -> None:
    # The old file stays mapped by the reader until it is gone.
    fresh = path.with_suffix(".partial")
    save_file(tensors, fresh, metadata={"format": "pt"})
    fresh.replace(path)


def _rewrite_index(checkpoint: Path, weight_map: Mapping[str, str]) -> None:
    total = sum((checkpoint / name).stat().st_size for name in set(weight_map.values()))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (checkpoint / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _rewrite_config(checkpoint: Path, target: Format, group_size: int) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = "float16"
    config["quantization_config"] = _quantization_config(target, group_size)
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _quantization_config(target: Format, group_size: int) -> dict[str, Any]:
    shared = {"quant_method": target, "bits": 4, "group_size": group_size}
    if target == "awq":
        return {**shared, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}
    gptq = {"sym": True, "desc_act": False, "lm_head": False, "checkpoint_format": "gptq"}
    return {**shared, **gptq}
