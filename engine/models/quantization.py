"""How a checkpoint's linear layers are stored, read from its `quantization_config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Methods of EngineConfig.quantization that quantize an unquantized checkpoint while loading it.
_ONLINE_BITS = {"fp8": 8, "fp8_per_channel": 8}


@dataclass(frozen=True, slots=True)
class Quantization:
    """Layout of a quantized linear layer.

    `bits` None: the method's layout isn't known here. `group_size` counts input features that
    share one scale, None for one scale per output channel. `zero_points` are packed like weights.
    `floating`: weights are floats, not integers; `activation_bits` 16: activations are left alone.
    """

    method: str
    bits: int | None
    group_size: int | None = None
    zero_points: bool = False
    scale_bytes: int = 2
    index_bytes: int = 0
    floating: bool = False
    activation_bits: int = 16

    def linear_bytes(self, inputs: int, outputs: int) -> int:
        """Bytes of one layer without its bias. Raises ValueError where `bits` isn't known."""
        if self.bits is None:
            raise ValueError(f"the layout of {self.method} is not known")
        groups = -(-inputs // self.group_size) if self.group_size else 1
        packed = inputs * outputs * self.bits // 8
        scales = groups * outputs * self.scale_bytes
        zeros = groups * outputs * self.bits // 8 if self.zero_points else 0
        return packed + scales + zeros + inputs * self.index_bytes

    def describe(self) -> str:
        bits = "" if self.bits is None else f", {self.bits} bits"
        group = "" if self.group_size is None else f", groups of {self.group_size}"
        return f"{self.method}{bits}{group}"


def read_quantization(config: Mapping[str, Any] | None) -> Quantization | None:
    """Parse a `quantization_config`; an unknown method keeps its name and nothing else."""
    if not config:
        return None
    method = str(config.get("quant_method", "unknown"))
    match method:
        case "awq" | "gptq":
            group = int(config.get("group_size", -1))
            return Quantization(
                method,
                int(config.get("bits") or config.get("w_bit") or 4),
                group if group > 0 else None,
                zero_points=method == "gptq" or bool(config.get("zero_point", True)),
                index_bytes=4 if method == "gptq" else 0,
            )
        case "fp8":
            return Quantization(method, 8, scale_bytes=4)
        case "compressed-tensors":
            return _compressed_tensors(config)
    return Quantization(method, None)


def online_quantization(method: str) -> Quantization | None:
    """The layout that vLLM gives an unquantized checkpoint under `method`, where known."""
    bits = _ONLINE_BITS.get(method)
    return None if bits is None else Quantization(method, bits, scale_bytes=4)


def _compressed_tensors(config: Mapping[str, Any]) -> Quantization:
    unknown = Quantization("compressed-tensors", None)
    groups = list(config.get("config_groups", {}).values())
    if len(groups) != 1 or not isinstance(groups[0].get("weights"), Mapping):
        return unknown
    weights = groups[0]["weights"]
    if weights.get("strategy") not in ("group", "channel", "tensor"):
        return unknown
    return Quantization(
        "compressed-tensors",
        int(weights["num_bits"]),
        weights.get("group_size") if weights["strategy"] == "group" else None,
        zero_points=not weights.get("symmetric", True),
        floating=weights.get("type") == "float",
        activation_bits=int((groups[0].get("input_activations") or {}).get("num_bits") or 16),
    )
