"""What to make of a model: the method, the format it is written in, and the calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from engine.quantize.errors import SettingsError

Method = Literal["awq", "gptq", "w8a8", "fp8"]
Format = Literal["awq", "gptq", "compressed-tensors"]
METHODS: tuple[Method, ...] = get_args(Method)
FORMATS: tuple[Format, ...] = get_args(Format)

# What a method's checkpoint can be written as; the first is the default.
WRITABLE: dict[Method, tuple[Format, ...]] = {
    "awq": ("awq", "compressed-tensors"),
    "gptq": ("gptq", "compressed-tensors"),
    "w8a8": ("compressed-tensors",),
    "fp8": ("compressed-tensors",),
}
GROUPED: tuple[Method, ...] = ("awq", "gptq")

# AWQ tries every scale on all of the text; GPTQ reads it once and needs enough of it that no
# direction of a layer's input goes unseen.
_SAMPLES: dict[Method, int] = {"awq": 8, "gptq": 32, "w8a8": 32, "fp8": 0}
_SEQUENCE_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Settings:
    """A valid choice. `group_size` counts the input features that share a scale, None where a
    whole output channel does. `samples` is 0 where nothing is calibrated; `sequence_length` is in
    tokens."""

    method: Method
    format: Format
    group_size: int | None = None
    samples: int = 0
    sequence_length: int = _SEQUENCE_LENGTH
    smoothquant: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether text is read."""
        return self.samples > 0

    def with_group_size(self, size: int) -> Settings:
        return replace(self, group_size=size)


def choose_settings(
    method: Method,
    *,
    format: Format | None = None,
    group_size: int | None = None,
    samples: int | None = None,
    sequence_length: int | None = None,
    smoothquant: bool = False,
    calibration: bool = False,
) -> Settings:
    """Fill in what was left out; `calibration` says whether text was given or formatted.

    The group size stays None where it was: it depends on the model. Raises SettingsError.
    """
    written = format or WRITABLE[method][0]
    if written not in WRITABLE[method]:
        known = " or ".join(WRITABLE[method])
        raise SettingsError(
            f"--format {written}: a checkpoint made by {method} is written as {known}"
        )
    if group_size is not None and method not in GROUPED:
        raise SettingsError(
            f"--group-size: {method} has one scale per output channel; leave it out"
        )
    if smoothquant and method != "w8a8":
        raise SettingsError(f"--smoothquant goes with --method w8a8, not with {method}")
    calibrates = method in GROUPED or smoothquant
    asked = samples is not None or sequence_length is not None or calibration
    if asked and not calibrates:
        also = ", or add --smoothquant" if method == "w8a8" else ""
        raise SettingsError(
            f"{method} reads no text: its weights are rounded as they are and activations are "
            "scaled while serving. Leave out --calibration, --chat, --samples and "
            f"--sequence-length{also}"
        )
    return Settings(
        method,
        written,
        group_size,
        (samples or _SAMPLES[method]) if calibrates else 0,
        sequence_length or _SEQUENCE_LENGTH,
        smoothquant,
    )
