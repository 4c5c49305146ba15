"""`python -m engine.vllm_microbenchmark JSON`: what this CPU reaches with vLLM's own kernels.

The argument is a `Shapes`; the answer a JSON object with a `Reached` for each number format. Each
figure is of the median runs: the shortest ones are of threads that happened to wait for nothing,
which a whole step never does. Enough layers take turns that their weights come from memory and not
from a cache.

Relied on, of vLLM 0.32: `create_onednn_mm` and `onednn_mm` multiply linear layers on a CPU without
AMX kernels of their own, `cpu_attention_with_kv_cache` attends, over blocks of 128 tokens.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any, Final

import torch
from vllm import _custom_ops as ops
from vllm import envs
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

from engine.planning.roofline import OPERATORS_PER_LAYER
from engine.planning.shapes import Reached, Shapes

BUDGET_S: Final = 0.25
BLOCK: Final = 128
CACHE_BYTES: Final = 96 * 2**20
MOST_TOKENS: Final = 65_536
_FORMATS: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

Linears = list[tuple[Any, int, int]]


def main(text: str) -> None:
    shapes = Shapes(**json.loads(text))
    with torch.inference_mode():
        found = {name: _reached(shapes, dtype) for name, dtype in _FORMATS.items()}
    print(json.dumps({name: asdict(each) for name, each in found.items() if each is not None}))


def _reached(shapes: Shapes, dtype: torch.dtype) -> Reached | None:
    """None where the CPU has no instructions for it: vLLM then falls back to what is far slower."""
    try:
        linears = _linears(shapes, dtype)
    except RuntimeError:
        return None
    weights = sum(inputs * outputs for _, inputs, outputs in linears)
    read = _multiply(linears, 1, dtype)
    return Reached(
        bandwidth=weights * dtype.itemsize / read,
        matmul=2 * weights * shapes.sequences / _multiply(linears, shapes.sequences, dtype),
        prefill=2 * weights * shapes.rows / _multiply(linears, shapes.rows, dtype),
        attention=_attend(shapes, dtype, shapes.sequences, 1, shapes.context),
        prefill_attention=_attend(shapes, dtype, shapes.prompts, shapes.prompt, shapes.prompt),
        operator_s=_operate(shapes, shapes.sequences, dtype),
        prefill_operator_s=_operate(shapes, shapes.rows, dtype),
    )


def _typical(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds of all calls, one after the other: of each the median time of as many rounds as the
    budget has, three at least."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + BUDGET_S
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for call, taken in zip(calls, times, strict=True):
            begun = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begun)
        rounds += 1
    return sum(map(median, times))


def _linears(shapes: Shapes, dtype: torch.dtype) -> Linears:
    """Layers that together don't fit into a cache, one of them at least."""
    size = sum(inputs * outputs for inputs, outputs in shapes.linears) * dtype.itemsize
    layers = min(shapes.layers, -(-CACHE_BYTES // size))
    return [
        (ops.create_onednn_mm(_numbers(outputs, inputs, dtype).t(), 32), inputs, outputs)
        for _ in range(layers)
        for inputs, outputs in shapes.linears
    ]


def _multiply(linears: Linears, rows: int, dtype: torch.dtype) -> float:
    given = {inputs: _numbers(rows, inputs, dtype) for _, inputs, _ in linears}
    return _typical(
        [partial(ops.onednn_mm, linear, given[inputs], None) for linear, inputs, _ in linears]
    )


def _attend(shapes: Shapes, dtype: torch.dtype, sequences: int, queries: int, seen: int) -> float:
    """Operations a second of attention, counted as `roofline` counts them: layer after layer, each
    with its own cache, of no more tokens than fit into any memory."""
    seen = min(seen, MOST_TOKENS)
    sequences = min(sequences, MOST_TOKENS // seen)
    heads, kv_heads, size = shapes.heads, shapes.kv_heads, shapes.head_dim
    blocks = -(-seen // BLOCK)
    whole = (sequences * blocks, kv_heads, BLOCK * 2, size)
    bytes_each = math.prod(whole) * dtype.itemsize
    layers: int = min(shapes.layers, -(-CACHE_BYTES // bytes_each))
    caches = [_numbers(math.prod(whole[:-1]), size, dtype).view(whole) for _ in range(layers)]
    query = _numbers(sequences * queries * heads, size, dtype).view(-1, heads, size)
    starts = torch.arange(sequences + 1, dtype=torch.int32) * queries
    lengths = torch.full((sequences,), seen, dtype=torch.int32)
    table = torch.arange(sequences * blocks, dtype=torch.int32).view(sequences, blocks)
    isa = _get_attn_isa(dtype, BLOCK, size)
    split = envs.VLLM_CPU_ATTN_SPLIT_KV
    plan = ops.cpu_attn_get_scheduler_metadata(
        sequences, heads, kv_heads, size, lengths, dtype, starts, True, -1, isa, split
    )
    out, scale = torch.empty_like(query), size**-0.5

    def attend(cache: torch.Tensor) -> None:
        keys, values = cache.chunk(2, dim=2)
        settings = (starts, lengths, scale, True, None, -1, table, 0.0, plan, None)
        ops.cpu_attention_with_kv_cache(query, keys, values, out, *settings)

    seconds = _typical([partial(attend, cache) for cache in caches])
    pairs = layers * sequences * queries * seen / (2 if queries > 1 else 1)
    return 4 * pairs * heads * size / seconds


def _operate(shapes: Shapes, rows: int, dtype: torch.dtype) -> float:
    """Seconds of an operator between the products. One of a layer's has the width of its
    activation, the others about that of its hidden state, as a norm has."""
    width = shapes.intermediate
    both, out = _numbers(rows, 2 * width, dtype), torch.empty(rows, width, dtype=dtype)
    hidden, weight = _numbers(rows, shapes.hidden, dtype), torch.ones(shapes.hidden, dtype=dtype)
    normed = torch.empty_like(hidden)

    activation = partial(torch.ops._C.silu_and_mul, out, both)
    norm = partial(torch.ops._C.rms_norm, normed, hidden, weight, 1e-5)
    others = [norm] * (OPERATORS_PER_LAYER - 1)
    return _typical([activation, *others]) / OPERATORS_PER_LAYER


def _numbers(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, columns).mul_(0.02).to(dtype)


if __name__ == "__main__":
    main(sys.argv[1])
