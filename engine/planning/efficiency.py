"""What runs reach of a device's peaks, each figure with its source.

None is fitted to make a prediction come out right; all are of other people's measurements, or of
ours where it says so. On a CPU nothing of this is needed: there the rates are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

WEIGHT_BANDWIDTH: Final[Mapping[int, float]] = {16: 0.69, 8: 0.52, 4: 0.42}
"""Share of the datasheet's bandwidth at which a decode step reads weights, by their bits: Llama 2
7B on an A100 80 GB gave 1,397, 1,069 and 863 GB/s of 2,039 (README of pytorch-labs/gpt-fast, one
sequence). Launches, norms and dequantization are in it, which is why narrow weights have less."""

KV_BANDWIDTH: Final = 0.69
"""Attention reads the KV cache as a step reads 16-bit weights."""

MODEL_SHARE: Final = 0.75
"""Share of a large product's rate that a whole model reaches: 0.8 x 0.75 = 0.6 of the peak, what
cli99/llm-analysis takes for Llama 2 70B on two A100s beside its measured times."""

TENSOR_PARALLEL: Final[Mapping[int, float]] = {1: 1.0, 2: 0.85, 4: 0.68, 8: 0.50}
"""What is left of a GPU's share when a layer is split over so many: 1,182, 956 and 704 GB/s a GPU
instead of 1,397 (gpt-fast, as above, NVLink). Over PCIe less is left."""

ENGINE_STEP_S: Final = 1.0e-3
ENGINE_TOKEN_S: Final = 34e-6
"""The engine's time for a step and for each of its tokens, beside the model: scheduling, inputs,
sampling, output. Measured here with a model of one layer that takes next to none: 1 sequence gave
946 tokens/s, 32 gave 14,517, 256 gave 26,725 (docs/benchmarks.md, The front end), which is 1.06,
2.20 and 9.58 ms a step."""

CPU_LAYER_S: Final = 93e-6
"""What a layer costs on a CPU that is neither product, attention nor a compiled operator: the
cache's update (68 µs) and the call from Python into attention (25 µs), in each step, for 1 sequence
as for 32. Measured here by torch's profiler in vLLM 0.32, medians of 700 calls."""
