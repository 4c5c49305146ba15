"""What this machine has, and whether it is enough. Standard library only."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)

# The oldest C library that every locked wheel runs on.
MIN_GLIBC = (2, 31)


class UnsuitableMachineError(Exception):
    """The machine lacks something; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """What to install for, and why."""

    device: Device
    reason: str


def choose_device(wanted: Device | Literal["auto"], kept: str | None = None) -> DeviceChoice:
    """`wanted` is cpu, cuda, or auto: what the environment was made for (`kept`); where there is
    none, cuda if the NVIDIA driver lists a GPU.

    Raises UnsuitableMachineError where the driver can't say.
    """
    if wanted != "auto":
        return DeviceChoice(wanted, "asked for")
    for device in DEVICES:
        if device == kept:
            return DeviceChoice(device, "as before; DEVICE changes it")
    gpus = nvidia_gpus()
    if gpus:
        return DeviceChoice("cuda", gpus[0])
    return DeviceChoice("cpu", "no NVIDIA GPU found")


def nvidia_gpus() -> list[str]:
    """The driver's own list, empty without a driver. Raises UnsuitableMachineError."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _silent_driver(str(error)) from None
    # "GPU 0: NVIDIA T4 (UUID: …)"; where the driver is broken the exit code says so.
    if listed.returncode and "No devices" not in listed.stdout:
        raise _silent_driver(f"exit code {listed.returncode}: {listed.stdout.strip()}")
    lines = [line.split(" (UUID")[0] for line in listed.stdout.splitlines()]
    return [line for line in lines if line.startswith("GPU ")]


def _silent_driver(problem: str) -> UnsuitableMachineError:
    return UnsuitableMachineError(
        f"whether there is a GPU can't be told, as nvidia-smi fails ({problem}).\n"
        "  Give DEVICE=cpu or DEVICE=cuda; after an update of the driver a restart helps."
    )


def require_platform() -> None:
    """Raises UnsuitableMachineError anywhere but on x86-64 Linux with a recent C library."""
    here = f"{platform.system()} on {platform.machine()}"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise UnsuitableMachineError(
            f"the locked packages are for Linux on x86-64 and this is {here}.\n"
            "  Run it in an x86-64 Linux container or virtual machine, or install a vLLM built\n"
            "  for this platform by hand, and then `pip install -e .`."
        )
    library, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if library != "glibc" or numbers < MIN_GLIBC:
        raise UnsuitableMachineError(
            f"glibc {MIN_GLIBC[0]}.{MIN_GLIBC[1]} or newer is needed (Debian 11, Ubuntu 20.04, "
            f"RHEL 9), and this system has {library or 'another C library'} {version}."
        )


def require_disk(venv: Path, unpacked_gib: float, downloads_gib: float) -> None:
    """Raises UnsuitableMachineError where so much more wouldn't fit into the environment, or so
    much into the folder of downloads."""
    needed: dict[int, tuple[Path, float]] = {}
    above = next(path for path in venv.parents if path.exists())
    for path, gib in ((above, unpacked_gib), (Path(tempfile.gettempdir()), downloads_gib)):
        disk = path.stat().st_dev
        needed[disk] = (path, needed.get(disk, (path, 0.0))[1] + gib)
    for path, gib in needed.values():
        free = shutil.disk_usage(path).free / 2**30
        if free < gib:
            raise UnsuitableMachineError(
                f"{gib:.1f} GiB free are needed at {path}, and {free:.1f} GiB are.\n"
                "  Free some, or set TMPDIR to a folder on another disk for the downloads."
            )


def compiler_warnings(venv: Path) -> list[str]:
    """What keeps torch.compile from working here. It builds its CPU kernels with a C++ compiler."""
    consequence = "the model will be served uncompiled, which is slower"
    warnings = []
    compiler = (os.environ.get("CXX") or "g++").split()[0]
    if shutil.which(compiler) is None:
        other = next(filter(shutil.which, ("g++", "c++", "clang++")), None)
        remedy = f"Set CXX={other}" if other else "apt-get install g++, or dnf install gcc-c++"
        warnings.append(f"no C++ compiler ({compiler}) was found; {consequence}. {remedy}.")
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        python = f"python{sysconfig.get_python_version()}"
        warnings.append(
            f"Python.h is missing from {include}; {consequence}. "
            f"apt-get install {python}-dev, or dnf install {python}-devel."
        )
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~")
    for variable, path in (
        ("VENV", str(venv)),
        ("PYTHON", sys.base_prefix),
        ("TORCHINDUCTOR_CACHE_DIR", os.environ.get("TORCHINDUCTOR_CACHE_DIR") or caches),
    ):
        if re.search(r"""[\s'"\\]""", path):
            warnings.append(
                f"torch can't give the compiler a path with a space or a quote: {path}; "
                f"{consequence}. Give another: make … {variable}=/some/where."
            )
    return warnings
