# ruff: noqa: N802 - the functions of the protocol have NVIDIA's names
"""What NVIDIA's management library (NVML) tells of the GPUs; nothing where there are none."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar, cast

T = TypeVar("T")

_TEMPERATURE_OF_THE_CHIP: Final = 0  # NVML_TEMPERATURE_GPU


@dataclass(frozen=True, slots=True)
class Gpu:
    """One reading. `utilization` in 0..1: the share of the last second at most in which a kernel
    ran. Sizes in bytes; what the driver doesn't tell of this device is None."""

    index: int
    name: str
    utilization: float | None
    memory: int | None
    memory_used: int | None
    power_w: float | None
    temperature_c: float | None


class Nvml(Protocol):
    """What is used of nvidia-ml-py's module `pynvml`. All of it raises errors of the driver's."""

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...

    def nvmlDeviceGetName(self, handle: Any) -> str: ...

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        """`gpu` in per cent."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        """`total` and `used` in bytes."""

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        """In milliwatts."""

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...


def installed() -> Nvml | None:
    """nvidia-ml-py, where it is installed."""
    try:
        return cast(Nvml, importlib.import_module("pynvml"))
    except ImportError:
        return None


class Gpus:
    """The GPUs of the machine. Reading them waits for the driver: not for the event loop."""

    def __init__(self, library: Callable[[], Nvml | None] = installed) -> None:
        self._library = library
        self._nvml: Nvml | None = None
        self._opened = False

    def read(self) -> list[Gpu]:
        """Those that answer; whatever the driver says instead of an answer, nothing is raised."""
        if not self._opened:
            self._opened = True
            self._nvml = _told(lambda: _initialized(self._library()))
        nvml = self._nvml
        if nvml is None:
            return []
        count = _told(nvml.nvmlDeviceGetCount) or 0
        read = (_told(partial(_read, nvml, index)) for index in range(count))
        return [gpu for gpu in read if gpu is not None]


def _initialized(nvml: Nvml | None) -> Nvml | None:
    if nvml is not None:
        nvml.nvmlInit()
    return nvml


def _read(nvml: Nvml, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    busy = _told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    memory = _told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    milliwatts = _told(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return Gpu(
        index=index,
        name=nvml.nvmlDeviceGetName(handle),
        utilization=None if busy is None else busy.gpu / 100,
        memory=None if memory is None else memory.total,
        memory_used=None if memory is None else memory.used,
        power_w=None if milliwatts is None else milliwatts / 1000,
        temperature_c=_told(
            lambda: nvml.nvmlDeviceGetTemperature(handle, _TEMPERATURE_OF_THE_CHIP)
        ),
    )


def _told(ask: Callable[[], T]) -> T | None:
    """None where the driver refuses: much is not supported by some device, or in some mode."""
    try:
        return ask()
    except Exception:  # the library's own, or what a broken installation of it raises
        return None
