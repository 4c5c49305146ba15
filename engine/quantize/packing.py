"""Layouts of 4-bit weights: from compressed-tensors' to AWQ's and GPTQ's, without rounding again.

A linear layer with `in` and `out` features and `gr = in / group_size` groups:

| tensor  | compressed-tensors            | AWQ ("gemm")              | GPTQ                |
|---------|-------------------------------|---------------------------|---------------------|
| weights | weight_packed [out, in/8]     | qweight [in, out/8]       | qweight [in/8, out] |
| zeros   | weight_zero_point [out/8, gr] | qzeros [gr, out/8]        | qzeros [gr, out/8]  |
| scales  | weight_scale [out, gr]        | scales [gr, out], float16 | scales, the same    |
| nibbles | 0 1 2 3 4 5 6 7               | 0 2 4 6 1 3 5 7           | 0 1 2 3 4 5 6 7     |

All store a weight as an unsigned nibble `q`; it means `(q - zero) * scale`. Words are int32, the
first nibble in the lowest bits. GPTQ's zeros are stored one too low, and its `g_idx` names the
group of every input.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.quantize.errors import QuantizeError

Tensors = dict[str, torch.Tensor]

NIBBLES = 8
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
STRAIGHT = tuple(range(NIBBLES))
# Where a layer has no zero points its weights are symmetric around the middle nibble.
_MIDDLE = 8


def to_awq(layer: Mapping[str, torch.Tensor]) -> Tensors:
    """A layer's `weight_packed`, `weight_scale` and `weight_zero_point` as AWQ's `qweight`,
    `qzeros` and `scales`. Raises QuantizeError where float16 can't hold a scale."""
    return {
        "qweight": pack(unpack(layer["weight_packed"]).T, AWQ_ORDER),
        "qzeros": pack(unpack(layer["weight_zero_point"].T), AWQ_ORDER),
        "scales": _half_scales(layer["weight_scale"]),
    }


def to_gptq(layer: Mapping[str, torch.Tensor]) -> Tensors:
    """A symmetric layer's `weight_packed` and `weight_scale` as GPTQ's `qweight`, `qzeros`,
    `scales` and `g_idx`. Raises QuantizeError where float16 can't hold a scale."""
    packed, scales = layer["weight_packed"], _half_scales(layer["weight_scale"])
    groups, outputs = scales.shape
    inputs = packed.shape[1] * NIBBLES
    return {
        "qweight": packed.T.contiguous(),
        "qzeros": pack(torch.full((groups, outputs), _MIDDLE - 1, dtype=torch.int32)),
        "scales": scales,
        "g_idx": (torch.arange(inputs) // (inputs // groups)).to(torch.int32),
    }


def pack(values: torch.Tensor, order: tuple[int, ...] = STRAIGHT) -> torch.Tensor:
    """Nibbles [rows, 8 * words] into int32 [rows, words]; a word's k-th nibble is `order[k]`."""
    words = values.to(torch.int32).unflatten(-1, (-1, NIBBLES))[..., list(order)]
    # The highest nibble runs into the sign bit, which is where it belongs.
    return (words << _shifts(values)).sum(-1, dtype=torch.int32).contiguous()


def unpack(words: torch.Tensor, order: tuple[int, ...] = STRAIGHT) -> torch.Tensor:
    """The reverse of `pack`: int32 [rows, words] into nibbles 0 to 15 [rows, 8 * words]."""
    nibbles = (words.unsqueeze(-1) >> _shifts(words)) & 0xF
    straight = torch.empty_like(nibbles)
    straight[..., list(order)] = nibbles
    return straight.flatten(-2)


def _shifts(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(0, 4 * NIBBLES, 4, dtype=torch.int32, device=like.device)


def _half_scales(scales: torch.Tensor) -> torch.Tensor:
    """[outputs, groups] as float16 [groups, outputs]. bfloat16 has fewer digits than float16, so
    that nothing is lost from 2**-17 on."""
    halves = scales.T.to(torch.float16).contiguous()
    if not bool(torch.isfinite(halves).all()):
        raise QuantizeError(
            "a scale is too large for float16, which this format stores; write the checkpoint with "
            "--format compressed-tensors"
        )
    return halves
