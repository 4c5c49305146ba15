"""The environment vLLM, OpenMP and torch.compile read. What the user has set is never changed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from engine.config import EngineConfig
from engine.cpu_threads import read_books
from engine.models import cache_root

# What paths are split at, in command lines and in the loader's LD_PRELOAD.
SPLITS = re.compile(r"""[\s'"\\]""")


def prepare_import() -> None:
    """What has to be set before vLLM is imported; stays set."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Standard output belongs to the program: `chat` is used in pipes.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    cpu = _is_cpu_build()
    # The CPU build warns at every start of what is missing by design, such as Triton.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR" if cpu else "WARNING")
    if cpu:
        # What torch compiles is kept where it lasts; torch's own default is below /tmp, and torch
        # sets it when imported.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root().parent / "torch-compile"))


@contextmanager
def engine_processes(
    config: EngineConfig, directory: str, *, cpu: bool, in_process: bool, adapts: bool = False
) -> Iterator[None]:
    """The environment the engine's processes inherit, while they are being started. Their sockets
    and other files are in `directory`: a killed one removes none. `adapts`: there will be fewer
    threads while other programs use the cores."""
    wanted: dict[str, str] = {}
    if cpu:
        wanted |= _cpu_variables(config, adapts=adapts)
        if in_process:
            # Without it vLLM puts the CPU worker back into a process of its own.
            wanted["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    own = {"VLLM_RPC_BASE_PATH": directory, "TMPDIR": directory}
    if SPLITS.search(sys.prefix):
        own["LD_PRELOAD"] = _preloads_outside(sys.prefix)
    restored = {name: os.environ.get(name) for name in (*wanted, *own)}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    os.environ.update(own)
    try:
        yield
    finally:
        _restore(restored)


@contextmanager
def preloads_undone() -> Iterator[None]:
    """vLLM's settings, once made, have its OpenMP preloaded into whatever is started. That is for
    the engine's processes; nothing started later should inherit it."""
    before = {"LD_PRELOAD": os.environ.get("LD_PRELOAD")}
    try:
        yield
    finally:
        _restore(before)


def compiler_problem(environ: Mapping[str, str] = os.environ) -> str | None:
    """Why torch.compile can't work on this machine's CPU, or None where it can."""
    compiler = environ.get("CXX") or "g++"
    if shutil.which(compiler.split()[0]) is None:
        return f"no C++ compiler ({compiler}) was found"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "the headers of Python (Python.h) are missing"
    for path in (sys.prefix, sys.base_prefix, environ.get("TORCHINDUCTOR_CACHE_DIR", "")):
        if SPLITS.search(path):
            return f"torch can't give the compiler a path with a space or a quote: {path}"
    return None


def available_cores() -> int:
    """Physical cores this program may use: a second thread of a core only gets in its way."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def threads_adapt(config: EngineConfig, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a CPU engine may have fewer threads while other programs use the cores: unless the
    user has said how many, or nobody knows who uses the cores."""
    if config.cpu_threads is not None or "OMP_NUM_THREADS" in environ:
        return False
    try:
        read_books()
    except (OSError, ValueError):
        return False
    return True


def _cpu_variables(config: EngineConfig, *, adapts: bool) -> dict[str, str]:
    return {
        # Binding would put the engines of two servers on the same core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(config.cpu_threads or available_cores()),
        # Between operations threads spin for a while: those that sleep at once are slow to wake up.
        # Where another program has a core, those on the others spin in vain for as long.
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
        "GOMP_SPINCOUNT": "20000" if adapts else "500",
        # A lone sequence's attention would be split between threads that spin for each other: with
        # anything else on the machine that took four times as long as two sequences.
        "VLLM_CPU_ATTN_SPLIT_KV": "0",
        # vLLM 0.32 saves what it has compiled for a CPU ahead of time, but can't load it again and
        # compiles anew at every start. Without, torch's own cache serves.
        "VLLM_USE_AOT_COMPILE": "0",
        # What they note about NUMA, Triton and themselves tells nothing that could be changed.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TORCH_LOGS": "-torch._library.triton",
        "PYTHONWARNINGS": "ignore",
    }


def _preloads_outside(folder: str) -> str:
    """What is preloaded but for the libraries in `folder`."""
    listed = os.environ.get("LD_PRELOAD", "").split(":")
    return ":".join(one for one in listed if not one.startswith(folder))


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _is_cpu_build() -> bool:
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
