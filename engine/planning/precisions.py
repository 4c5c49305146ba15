"""Precisions: how weights are stored and computed, which device runs which, and how.

Least capabilities are those of vLLM 0.32's own checks: AWQ, GPTQ, weight-only FP8 (Marlin) and
INT8 W8A8 from 7.5 (Turing), FP8 W8A8 from 8.9 (Ada).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from engine.config import EngineConfig
from engine.models import CheckpointFacts, Quantization
from engine.planning.devices import Device
from engine.planning.errors import PlanError

Dtype = Literal["float16", "bfloat16", "float32"]

_GROUP_SIZES: Final = (128, 64, 32)
_NUMBERS: Final = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True, slots=True)
class Precision:
    """`loss` orders precisions by what they do to answers: 0 the checkpoint's own 16 bits, 1 eight
    bits, 2 AWQ, 3 GPTQ, as perplexity has them (docs/plan.md); 4 is worse value than any.

    `method` is vLLM's name of the quantization, None for none.
    """

    name: str
    bits: int
    loss: int
    method: str | None = None


PRECISIONS: Final = (
    Precision("bf16", 16, 0),
    Precision("fp16", 16, 0),
    Precision("fp8", 8, 1, "fp8"),
    Precision("w8a8", 8, 1, "compressed-tensors"),
    Precision("awq", 4, 2, "awq"),
    Precision("gptq", 4, 3, "gptq"),
    Precision("fp32", 32, 4),
)
NAMES: Final = ("auto", *(precision.name for precision in PRECISIONS))


def find_precisions(name: str) -> tuple[Precision, ...]:
    """The precision of that name; all of them for `auto`. Raises PlanError."""
    if name == "auto":
        return PRECISIONS
    found = tuple(precision for precision in PRECISIONS if precision.name == name)
    if not found:
        raise PlanError(f"--precision {name}: not known here; one of {', '.join(NAMES)}")
    return found


@dataclass(frozen=True, slots=True)
class Route:
    """How a device runs a precision: numbers multiplied in `number` (a key of its rates), the rest
    of the model in `dtype`."""

    dtype: Dtype
    number: str
    how: str


def route(precision: Precision, facts: CheckpointFacts, device: Device) -> Route | str:
    """How it runs, or why it can't."""
    stored = facts.quantization
    if stored is not None and _stored_as(stored) != precision.name:
        known = _stored_as(stored) or stored.describe()
        return f"the checkpoint is quantized with {known} already"
    if precision.method is None:
        return _plain(precision, device)
    dtype = _sixteen_bits(facts, device)
    sixteen = _NUMBERS[dtype]
    if device.kind == "cpu":
        return _quantized_on_cpu(precision, dtype)
    if precision.name == "w8a8":
        return Route(dtype, "int8", "8-bit weights and activations, int8 tensor cores")
    if precision.name == "fp8" and "fp8" in device.rates:
        return Route(dtype, "fp8", "8-bit weights and activations, fp8 tensor cores")
    if precision.name == "fp8":
        return Route(dtype, sixteen, f"weights only: no fp8 tensor cores, multiplied in {sixteen}")
    kernel = f"weights only: dequantized to {sixteen} in the kernel (Marlin)"
    return Route(dtype, sixteen, kernel)


def quantized(facts: CheckpointFacts, precision: Precision) -> CheckpointFacts:
    """The facts of the same model stored in `precision`.

    AWQ and GPTQ in the largest usual group that divides the layers' inputs; W8A8 as llm-compressor
    writes it, with a scale for each output channel.
    """
    if facts.quantization is not None or precision.method is None:
        return facts
    group = _group_size(facts)
    layouts: Mapping[str, Quantization] = {
        "fp8": Quantization("fp8", 8, scale_bytes=4),
        "w8a8": Quantization("compressed-tensors", 8),
        "awq": Quantization("awq", 4, group, zero_points=True),
        "gptq": Quantization("gptq", 4, group, zero_points=True, index_bytes=4),
    }
    return replace(facts, quantization=layouts[precision.name], stored_bytes=None)


def engine_config(dtype: Dtype, **settings: Any) -> EngineConfig:
    """The settings a plan is made for: what is not named keeps its default."""
    return EngineConfig.model_validate({"dtype": dtype, **settings})


def _stored_as(stored: Quantization) -> str | None:
    """The precision it amounts to; None for one that isn't planned for."""
    if stored.method != "compressed-tensors":
        return stored.method
    match stored.bits, stored.floating, stored.activation_bits:
        case 8, True, _:
            return "fp8"
        case 8, False, 8:
            return "w8a8"
        case 4, False, 16:
            return "awq" if stored.zero_points else "gptq"
    return None


def _plain(precision: Precision, device: Device) -> Route | str:
    dtype: Dtype
    for dtype in ("bfloat16", "float16", "float32"):
        if _NUMBERS[dtype] == precision.name:
            break
    if precision.name not in device.rates:
        return f"{device.label} doesn't compute in {precision.name}"
    return Route(dtype, precision.name, "as it is")


def _quantized_on_cpu(precision: Precision, dtype: Dtype) -> Route:
    """None of these numbers is measured: such a row has a memory plan and no prediction."""
    match precision.name:
        case "fp8":
            return Route(dtype, "fp8", "torch's scaled product, or vLLM's where it has AMX")
        case "w8a8":
            return Route(dtype, "int8", "8-bit weights and activations")
    amx = "weights only; 8-bit activations with AMX" if dtype == "bfloat16" else "weights only"
    return Route(dtype, "int8", amx)


def _sixteen_bits(facts: CheckpointFacts, device: Device) -> Dtype:
    """What an engine's unquantized parts run in."""
    own: Dtype = "bfloat16" if facts.dtype == "bfloat16" else "float16"
    return own if _NUMBERS[own] in device.rates else "float16"


def _group_size(facts: CheckpointFacts) -> int | None:
    inputs = {linear.inputs for linear in facts.layer_linears}
    fitting = (size for size in _GROUP_SIZES if all(n % size == 0 for n in inputs))
    return next(fitting, None)
