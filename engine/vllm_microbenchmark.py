"""`python -m engine.vllm_microbenchmark JSON`: what this CPU reaches with vLLM's own kernels.

The argument is a `Shapes`; the answer a JSON object with a `Reached` for each number format. The
calls of a layer are made in the order of a layer, layer after layer, and each is timed where it
stands, with a pause where an engine's Python runs: a call that is repeated by itself finds its
code, its numbers and its threads warm, and is up to twice as fast. The medians count: the shortest
times are of threads that happened to wait for nothing, which a whole step never does. There are as
many layers as don't fit into a cache.

Relied on, of vLLM 0.32: `create_onednn_mm` and `onednn_mm` multiply linear layers on a CPU without
AMX kernels of their own, `cpu_attention_with_kv_cache` attends, over blocks of 128 tokens.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Final, Literal, get_args

import torch
from vllm import _custom_ops as ops
from vllm import envs
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

from engine.planning.roofline import OPERATORS_PER_LAYER
from engine.planning.shapes import Reached, Shapes

BUDGET_S: Final = 0.8
BLOCK: Final = 128
# What vLLM's Python takes before a layer's attention, and after it (torch's profiler, vLLM 0.32).
PAUSE_S: Final = 15e-6
CACHE_BYTES: Final = 96 * 2**20
MOST_TOKENS: Final = 65_536
_FORMATS: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

Kind = Literal["products", "attention", "operators", "pause"]
Call = Callable[[], object]
Linear = tuple[Any, int, int]


def main(text: str) -> None:
    shapes = Shapes(**json.loads(text))
    with torch.inference_mode():
        found = {name: _reached(shapes, dtype) for name, dtype in _FORMATS.items()}
    print(json.dumps({name: asdict(each) for name, each in found.items() if each is not None}))


def _reached(shapes: Shapes, dtype: torch.dtype) -> Reached | None:
    """None where the CPU has no instructions for it: vLLM then falls back to what is far slower."""
    try:
        layers = _layers(shapes, dtype)
    except RuntimeError:
        return None
    weights = sum(inputs * outputs for layer in layers for _, inputs, outputs in layer)
    decode = _Size(shapes.sequences, shapes.sequences, 1, shapes.context)
    prefill = _Size(shapes.rows, shapes.prompts, shapes.prompt, shapes.prompt)
    # With one sequence nothing but reading the weights takes time.
    lone = replace(decode, rows=1, sequences=1)
    sizes = [size.bounded() for size in (decode, prefill)]
    took = {size: _step(shapes, layers, size, dtype) for size in {lone.bounded(), *sizes}}
    read = took[lone.bounded()]["products"]
    rates = [2 * weights * size.rows / took[size]["products"] for size in sizes]
    attending = [len(layers) * size.operations(shapes) / took[size]["attention"] for size in sizes]
    operators = [took[size]["operators"] / len(layers) / OPERATORS_PER_LAYER for size in sizes]
    return Reached(weights * dtype.itemsize / read, *rates, *attending, *operators)


@dataclass(frozen=True, slots=True)
class _Size:
    """A step: `rows` tokens in the products; attention of so many `sequences` with `queries`
    tokens each, which see `seen`, of no more tokens than fit into any memory."""

    rows: int
    sequences: int
    queries: int
    seen: int

    def bounded(self) -> _Size:
        seen = min(self.seen, MOST_TOKENS)
        return replace(self, seen=seen, sequences=min(self.sequences, MOST_TOKENS // seen))

    def operations(self, shapes: Shapes) -> float:
        """Of attention in a layer, counted as `roofline` counts them."""
        pairs = self.sequences * self.queries * self.seen / (2 if self.queries > 1 else 1)
        return 4 * pairs * shapes.heads * shapes.head_dim


def _step(
    shapes: Shapes, layers: list[list[Linear]], size: _Size, dtype: torch.dtype
) -> dict[Kind, float]:
    """The seconds that the calls of each kind take in a step of these layers."""
    norm, activation = _operators(shapes, size.rows, dtype)
    # The split of queries, keys and values and the rotary embedding stand for themselves with a
    # norm, which has about their width.
    between: list[list[Call]] = [[norm], [norm, norm], [norm], [activation]]
    calls: list[tuple[Kind, Call]] = []
    for layer, attend in zip(layers, _attention(shapes, size, len(layers), dtype), strict=True):
        for index, product in enumerate(_products(layer, size.rows, dtype)):
            calls += [("operators", call) for call in between[index]]
            if index == 1:
                calls += [("pause", _pause), ("attention", attend), ("pause", _pause)]
            calls.append(("products", product))
    return _typical(calls)


def _typical(calls: Sequence[tuple[Kind, Call]]) -> dict[Kind, float]:
    """Seconds of all calls of each kind, made one after the other: of each the median time of as
    many rounds as the budget has, three at least."""
    for _, call in calls:  # threads are begun, and code is made
        call()
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + BUDGET_S
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for (_, call), taken in zip(calls, times, strict=True):
            begun = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begun)
        rounds += 1
    sums: dict[Kind, float] = dict.fromkeys(get_args(Kind), 0.0)
    for (kind, _), taken in zip(calls, times, strict=True):
        sums[kind] += median(taken)
    return sums


def _layers(shapes: Shapes, dtype: torch.dtype) -> list[list[Linear]]:
    """Those that together don't fit into a cache, one of them at least."""
    size = sum(inputs * outputs for inputs, outputs in shapes.linears) * dtype.itemsize
    return [
        [
            (ops.create_onednn_mm(_numbers(outputs, inputs, dtype).t(), 32), inputs, outputs)
            for inputs, outputs in shapes.linears
        ]
        for _ in range(min(shapes.layers, -(-CACHE_BYTES // size)))
    ]


def _products(layer: list[Linear], rows: int, dtype: torch.dtype) -> list[Call]:
    return [
        partial(ops.onednn_mm, linear, _numbers(rows, inputs, dtype), None)
        for linear, inputs, _ in layer
    ]


def _attention(shapes: Shapes, size: _Size, layers: int, dtype: torch.dtype) -> list[Call]:
    """One call for each layer, with a cache of its own."""
    sequences, heads, kv_heads, width = (
        size.sequences,
        shapes.heads,
        shapes.kv_heads,
        shapes.head_dim,
    )
    blocks = -(-size.seen // BLOCK)
    whole = (sequences * blocks, kv_heads, BLOCK * 2, width)
    query = _numbers(sequences * size.queries * heads, width, dtype).view(-1, heads, width)
    starts = torch.arange(sequences + 1, dtype=torch.int32) * size.queries
    lengths = torch.full((sequences,), size.seen, dtype=torch.int32)
    table = torch.arange(sequences * blocks, dtype=torch.int32).view(sequences, blocks)
    isa = _get_attn_isa(dtype, BLOCK, width)
    split = envs.VLLM_CPU_ATTN_SPLIT_KV
    plan = ops.cpu_attn_get_scheduler_metadata(
        sequences, heads, kv_heads, width, lengths, dtype, starts, True, -1, isa, split
    )
    out, scale = torch.empty_like(query), width**-0.5

    def attend(cache: torch.Tensor) -> None:
        keys, values = cache.chunk(2, dim=2)
        settings = (starts, lengths, scale, True, None, -1, table, 0.0, plan, None)
        ops.cpu_attention_with_kv_cache(query, keys, values, out, *settings)

    # Beyond what no cache holds they take turns.
    bytes_each = math.prod(whole) * dtype.itemsize
    caches = [
        _numbers(math.prod(whole[:-1]), width, dtype).view(whole)
        for _ in range(min(layers, -(-CACHE_BYTES // bytes_each)))
    ]
    return [partial(attend, caches[layer % len(caches)]) for layer in range(layers)]


def _pause() -> None:
    end = time.perf_counter() + PAUSE_S
    while time.perf_counter() < end:
        pass


def _operators(shapes: Shapes, rows: int, dtype: torch.dtype) -> tuple[Call, Call]:
    """A norm and an activation."""
    width = shapes.intermediate
    both, out = _numbers(rows, 2 * width, dtype), torch.empty(rows, width, dtype=dtype)
    hidden, weight = _numbers(rows, shapes.hidden, dtype), torch.ones(shapes.hidden, dtype=dtype)
    normed = torch.empty_like(hidden)
    return (
        partial(torch.ops._C.rms_norm, normed, hidden, weight, 1e-5),
        partial(torch.ops._C.silu_and_mul, out, both),
    )


def _numbers(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, columns).mul_(0.02).to(dtype)


if __name__ == "__main__":
    main(sys.argv[1])
