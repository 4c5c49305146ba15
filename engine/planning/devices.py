"""Devices to plan for: memory, bandwidth and peak rates, each with its source.

Rates are dense, in operations a second: where a datasheet prints figures "with sparsity", half of
them. Memory is what `nvidia-smi` reports with error correction on, which is less than the name
says. What a device reaches of its peaks is no property of its datasheet: see `efficiency`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from engine.planning.errors import PlanError

TERA: Final = 1e12
GIGA: Final = 1e9

# nvidia-smi's totals of seven GPUs, in MiB.
_TOTALS: Final = "memory: nvidia-smi, github.com/modal-labs/modal-client/pull/2797"


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `bandwidth` in bytes a second, `rates` in operations a second by number format;
    a format that isn't there isn't computed in.

    `matmul_share` is the part of the peak that large matrix products were measured at.
    `capability` is CUDA's, times ten; None for a CPU.
    """

    name: str
    label: str
    kind: Literal["gpu", "cpu"]
    memory_gib: float
    bandwidth: float
    rates: Mapping[str, float]
    matmul_share: float
    capability: int | None
    sources: tuple[str, ...]


def _gpu(
    name: str,
    label: str,
    capability: int,
    *,
    mib: int,
    gb_s: float,
    tera: Mapping[str, float],
    matmul_share: float,
    sources: tuple[str, ...],
) -> Device:
    return Device(
        name=name,
        label=label,
        kind="gpu",
        memory_gib=mib / 1024,
        bandwidth=gb_s * GIGA,
        rates={number: rate * TERA for number, rate in tera.items()},
        matmul_share=matmul_share,
        capability=capability,
        sources=(*sources, _TOTALS),
    )


_MATMUL: Final = "matmul share: PyTorch, github.com/zzc0721/torch-performance-test-data"
_HOPPER: Final = {"fp32": 67, "fp16": 989.5, "bf16": 989.5, "fp8": 1979, "int8": 1979}
_AMPERE: Final = {"fp32": 19.5, "fp16": 312, "bf16": 312, "int8": 624}

_GPUS: Final = (
    _gpu(
        "t4",
        "NVIDIA T4 (16 GB, Turing)",
        75,
        mib=15360,
        gb_s=320,
        tera={"fp32": 8.1, "fp16": 65, "int8": 130},
        # 42 of 65 TFLOPS in fp16; bf16, which it emulates, ran at 2.4.
        matmul_share=0.65,
        sources=("NVIDIA T4 datasheet", f"{_MATMUL}: 41.9 and 42.7 TFLOPS of 65"),
    ),
    _gpu(
        "a10",
        "NVIDIA A10 (24 GB, Ampere)",
        86,
        mib=23028,
        gb_s=600,
        tera={"fp32": 31.2, "fp16": 125, "bf16": 125, "int8": 250},
        matmul_share=0.80,
        sources=("NVIDIA A10 datasheet", f"{_MATMUL}: assumed as the A40's, 119 of 150"),
    ),
    _gpu(
        "l4",
        "NVIDIA L4 (24 GB, Ada)",
        89,
        mib=23034,
        gb_s=300,
        tera={"fp32": 30.3, "fp16": 121, "bf16": 121, "fp8": 242.5, "int8": 242.5},
        matmul_share=0.65,
        sources=(
            "NVIDIA L4 datasheet, halved where it counts sparsity",
            f"{_MATMUL}: assumed as the T4's, the other card of 70 W",
        ),
    ),
    _gpu(
        "a100-40g",
        "NVIDIA A100 40 GB (Ampere)",
        80,
        mib=40960,
        gb_s=1555,
        tera=_AMPERE,
        matmul_share=0.79,
        sources=("NVIDIA A100 datasheet", f"{_MATMUL}: 248 TFLOPS of 312"),
    ),
    _gpu(
        "a100-80g",
        "NVIDIA A100 80 GB SXM (Ampere)",
        80,
        mib=81920,
        gb_s=2039,
        tera=_AMPERE,
        matmul_share=0.84,
        sources=("NVIDIA A100 datasheet", f"{_MATMUL}: 259 to 265 TFLOPS of 312"),
    ),
    _gpu(
        "h100",
        "NVIDIA H100 80 GB SXM (Hopper)",
        90,
        mib=81559,
        gb_s=3350,
        tera=_HOPPER,
        matmul_share=0.78,
        sources=(
            "NVIDIA H100 datasheet, halved where it counts sparsity",
            f"{_MATMUL}: 758 to 789 TFLOPS of 989",
        ),
    ),
    _gpu(
        "h200",
        "NVIDIA H200 141 GB SXM (Hopper)",
        90,
        mib=143771,
        gb_s=4800,
        tera=_HOPPER,
        matmul_share=0.78,
        sources=(
            "NVIDIA H200 datasheet, halved where it counts sparsity",
            f"{_MATMUL}: 759 to 790 TFLOPS of 989",
        ),
    ),
)
GPUS: Final[Mapping[str, Device]] = {gpu.name: gpu for gpu in _GPUS}
NAMES: Final = (*GPUS, "cpu")
"""What `--gpu` takes. `cpu` is this machine's, measured on the spot."""


def find_gpu(name: str) -> Device:
    """The GPU of that name. Raises PlanError, which lists those that are known."""
    found = GPUS.get(name.strip().lower())
    if found is None:
        raise PlanError(f"--gpu {name}: not known here; one of {', '.join(NAMES)}")
    return found
