"""4-bit layouts read the slow and plain way, one nibble after another, to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

# Which nibble of a word holds output 0, 1, 2 … of AWQ's "gemm" layout.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def compressed_layer(
    quantized: np.ndarray[Any, Any], zeros: np.ndarray[Any, Any], scales: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Nibbles [out, in] and zero points [out, groups] as compressed-tensors stores them."""
    return {
        "weight_packed": _words(quantized),
        "weight_zero_point": _words(zeros.T).T.contiguous(),
        "weight_scale": scales,
        "weight_shape": torch.tensor(quantized.shape),
    }


def dequantized(
    quantized: np.ndarray[Any, Any], zeros: np.ndarray[Any, Any], scales: torch.Tensor
) -> np.ndarray[Any, Any]:
    """What they mean: float32 [out, in]."""
    repeats = quantized.shape[1] // zeros.shape[1]
    steps = scales.float().numpy()
    centred = quantized.astype(np.float32) - zeros.repeat(repeats, axis=1)
    return np.asarray(centred * steps.repeat(repeats, axis=1))


def read_compressed(layer: dict[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    """Weights [out, in] of compressed-tensors; without zero points they are symmetric."""
    quantized = _nibbles(layer["weight_packed"])
    scales = layer["weight_scale"]
    zeros = np.full(tuple(scales.shape), 8, np.int64)
    if "weight_zero_point" in layer:
        zeros = _nibbles(layer["weight_zero_point"].T).T
    return dequantized(quantized, zeros, scales)


def read_awq(layer: dict[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    """Weights [out, in] of AWQ's `qweight`, `qzeros`, `scales`."""
    quantized = _nibbles(layer["qweight"], _AWQ_PLACES)
    zeros = _nibbles(layer["qzeros"], _AWQ_PLACES)
    return dequantized(quantized.T, zeros.T, layer["scales"].T)


def read_gptq(layer: dict[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    """Weights [out, in] of GPTQ's `qweight`, `qzeros`, `scales`, `g_idx`."""
    quantized = _nibbles(layer["qweight"].T)
    zeros = _nibbles(layer["qzeros"]) + 1
    groups = layer["g_idx"].numpy()
    steps = layer["scales"].float().numpy()
    return np.asarray((quantized - zeros[groups].T).astype(np.float32) * steps[groups].T)


def _words(nibbles: np.ndarray[Any, Any]) -> torch.Tensor:
    rows, columns = nibbles.shape
    words = np.zeros((rows, columns // 8), np.uint32)
    for column in range(columns):
        words[:, column // 8] |= nibbles[:, column].astype(np.uint32) << (4 * (column % 8))
    return torch.from_numpy(words.view(np.int32).copy())


def _nibbles(
    words: torch.Tensor, places: tuple[int, ...] = tuple(range(8))
) -> np.ndarray[Any, Any]:
    unsigned = words.contiguous().numpy().view(np.uint32)
    found = np.zeros((unsigned.shape[0], unsigned.shape[1] * 8), np.int64)
    for column in range(found.shape[1]):
        found[:, column] = (unsigned[:, column // 8] >> (4 * places[column % 8])) & 15
    return found
