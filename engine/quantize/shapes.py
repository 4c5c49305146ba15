"""The matrices of a checkpoint that get quantized, and the group size that suits them."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engine.models.directory import weight_files
from engine.quantize.errors import QuantizeError, SettingsError

# What vLLM's 4-bit kernels have code for, best compression first.
GROUP_SIZES = (128, 64, 32)
# int4 weights are stored eight to a word, also across output channels.
PACKED = 8

_IN_LAYER = re.compile(r"\.\d+\..+\.weight")


def layer_matrices(path: Path) -> dict[str, tuple[int, int]]:
    """Name -> (outputs, inputs) of every matrix inside a decoder layer, from the headers of the
    safetensors files. Raises QuantizeError."""
    names = weight_files(file.name for file in path.iterdir())
    if not names or any(not name.endswith(".safetensors") for name in names):
        raise QuantizeError(f"{path}: its weights are not safetensors; convert them first")
    found: dict[str, tuple[int, int]] = {}
    for name in names:
        try:
            with safe_open(path / name, framework="np") as file:
                shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise QuantizeError(f"{path / name} can't be read: {error}") from None
        for key, shape in shapes.items():
            if len(shape) == 2 and _IN_LAYER.search(key):
                found[key] = (shape[0], shape[1])
    if not found:
        raise QuantizeError(f"{path}: no decoder layers with matrices to quantize were found")
    return found


def choose_group_size(matrices: dict[str, tuple[int, int]], asked: int | None = None) -> int:
    """The largest group size that divides every matrix's inputs, or `asked` where it does.

    Raises SettingsError.
    """
    inputs = sorted({shape[1] for shape in matrices.values()})
    fitting = [size for size in GROUP_SIZES if all(count % size == 0 for count in inputs)]
    narrow = [name for name, shape in matrices.items() if shape[0] % PACKED]
    if narrow:
        raise SettingsError(
            f"4-bit weights are stored eight to a word, and {narrow[0]} has "
            f"{matrices[narrow[0]][0]} outputs; take --method w8a8 or fp8"
        )
    if not fitting:
        raise SettingsError(
            f"no group size of {', '.join(map(str, GROUP_SIZES))} divides this model's layer "
            f"widths {', '.join(map(str, inputs))}; take --method w8a8 or fp8"
        )
    if asked is None:
        return fitting[0]
    if asked not in fitting:
        raise SettingsError(
            f"--group-size {asked}: this model's layers have {', '.join(map(str, inputs))} inputs, "
            f"and its kernels take {', '.join(map(str, GROUP_SIZES))}; "
            f"use {' or '.join(map(str, fitting))}, or leave it out"
        )
    return asked
