"""What this machine's GPUs do, by NVIDIA's management library; nothing where there are none."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """One reading. `utilization` in 0..1: the share of the last moment (a second at most) in which
    a kernel ran. Sizes in bytes, whoever uses them. None where it isn't told."""

    index: int
    name: str
    utilization: float | None
    memory: int | None
    memory_used: int | None
    power_w: float | None


def installed() -> ModuleType | None:
    """nvidia-ml-py, where it is installed."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


class Gpus:
    """Those of this machine, found at the first reading."""

    def __init__(self, library: Callable[[], Any] = installed) -> None:
        self._library = library
        self._nvml: Any = None
        self._handles: list[Any] | None = None

    def read(self) -> tuple[Gpu, ...]:
        """Empty where there are no GPUs, no driver or no library. Takes a millisecond or several
        for each; never raises."""
        if self._handles is None:
            self._handles = _told(self._found) or []
        read = (_told(self._read, index) for index in range(len(self._handles)))
        return tuple(gpu for gpu in read if gpu is not None)

    def _found(self) -> list[Any]:
        self._nvml = self._library()
        if self._nvml is None:
            return []
        self._nvml.nvmlInit()
        count = self._nvml.nvmlDeviceGetCount()
        return [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]

    def _read(self, index: int) -> Gpu:
        nvml, handle = self._nvml, (self._handles or [])[index]
        busy = _told(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = _told(nvml.nvmlDeviceGetMemoryInfo, handle)
        milliwatts = _told(nvml.nvmlDeviceGetPowerUsage, handle)
        return Gpu(
            index=index,
            name=nvml.nvmlDeviceGetName(handle),
            utilization=None if busy is None else busy.gpu / 100,
            memory=None if memory is None else memory.total,
            memory_used=None if memory is None else memory.used,
            power_w=None if milliwatts is None else milliwatts / 1000,
        )


def _told(ask: Callable[..., Any], *arguments: Any) -> Any:
    """None where the driver refuses: not every device supports every question."""
    try:
        return ask(*arguments)
    except Exception:  # errors of the library's own, which may not even be there
        return None
