"""What a plan is made for: a device, how many of them, and what they reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.planning.cpu import STEP_TOKENS, Machine
from engine.planning.devices import Device, find_gpu
from engine.planning.efficiency import (
    CPU_LAYER_S,
    ENGINE_STEP_S,
    ENGINE_TOKEN_S,
    KV_BANDWIDTH,
    MODEL_SHARE,
    TENSOR_PARALLEL,
    WEIGHT_BANDWIDTH,
)
from engine.planning.errors import PlanError
from engine.planning.precisions import Precision, Route
from engine.planning.roofline import Ceilings, Rates
from engine.planning.terms import Limit


@dataclass(frozen=True, slots=True)
class Platform:
    """`gpus` devices that share every layer. `ceilings` tells what one of them reaches with a
    precision, None where nobody measured that. `step_tokens` bounds a step where vLLM's default
    isn't meant."""

    device: Device
    gpus: int
    ceilings: Callable[[Precision, Route], Ceilings | None]
    step_tokens: int | None = None


def gpu_platform(name: str, gpus: int = 1, memory_gib: float | None = None) -> Platform:
    """GPUs of the table. Raises PlanError: an unknown name, or a number they aren't known for."""
    device = find_gpu(name)
    if gpus not in TENSOR_PARALLEL:
        counts = ", ".join(map(str, TENSOR_PARALLEL))
        raise PlanError(f"--gpus {gpus}: layers are split over {counts}")
    if memory_gib is not None:
        device = replace(device, memory_gib=memory_gib)
    return Platform(device, gpus, lambda precision, route: _of_gpu(device, gpus, precision, route))


def cpu_platform(machine: Machine, memory_gib: float | None = None) -> Platform:
    """This machine, as it was measured for a model and a load."""
    device = Device(
        name="cpu",
        label=f"this CPU, {machine.threads} threads",
        kind="cpu",
        memory_gib=memory_gib or machine.memory_gib,
        bandwidth=max(reached.bandwidth for reached in machine.reached.values()),
        rates={number: reached.matmul for number, reached in machine.reached.items()},
        matmul_share=1.0,
        capability=None,
        sources=("measured on this machine just now, with vLLM's own kernels",),
    )
    return Platform(device, 1, lambda _precision, route: _of_cpu(machine, route), STEP_TOKENS)


def _of_gpu(device: Device, gpus: int, precision: Precision, route: Route) -> Ceilings:
    shared = TENSOR_PARALLEL[gpus]
    compute = device.matmul_share * MODEL_SHARE * shared
    plain = "fp32" if route.dtype == "float32" else "fp16"
    rates = Rates(
        matmul=Limit(device.rates[route.number], compute),
        attention=Limit(device.rates[plain], compute),
    )
    return Ceilings(
        weights=Limit(device.bandwidth, WEIGHT_BANDWIDTH[min(precision.bits, 16)] * shared),
        cache=Limit(device.bandwidth, KV_BANDWIDTH * shared),
        decode=rates,
        prefill=rates,
        step_s=ENGINE_STEP_S,
        token_s=ENGINE_TOKEN_S,
    )


def _of_cpu(machine: Machine, route: Route) -> Ceilings | None:
    reached = machine.reached.get(route.number)
    if reached is None:
        return None
    return Ceilings(
        weights=Limit(reached.bandwidth),
        cache=Limit(reached.bandwidth),
        decode=Rates(
            Limit(reached.matmul),
            Limit(reached.attention),
            reached.operator_s,
            machine.shapes.sequences,
        ),
        prefill=Rates(
            Limit(reached.prefill),
            Limit(reached.prefill_attention),
            reached.prefill_operator_s,
            machine.shapes.rows,
        ),
        step_s=ENGINE_STEP_S,
        token_s=ENGINE_TOKEN_S,
        layer_s=CPU_LAYER_S,
    )
