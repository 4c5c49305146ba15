"""The packages of llm-compressor, in a directory of their own.

They can't be installed beside vLLM, which pins another version of compressed-tensors. The process
that quantizes finds them first on its path and takes everything else, torch above all, from the
environment that runs this.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from engine.models.embedded import cache_root
from engine.models.progress import Progress
from engine.quantize.errors import QuantizeError

LOCK = Path(__file__).with_name("quantize.lock")
VARIABLE = "GATEWAY_QUANTIZE_PACKAGES"
_NEEDED = ("llmcompressor", "compressed_tensors")


def packages_directory() -> Path:
    """Where this lock's packages for this Python are, or will be."""
    identity = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    return cache_root().parent / "quantize" / f"{sysconfig.get_python_version()}-{identity}"


def find_packages(progress: Progress) -> Path:
    """The directory that `GATEWAY_QUANTIZE_PACKAGES` names, or ours, filled at the first use.

    Raises QuantizeError, with what to do.
    """
    given = os.environ.get(VARIABLE)
    target = Path(given).expanduser() if given else packages_directory()
    if given and not _is_complete(target):
        raise QuantizeError(f"{VARIABLE}={given} does not hold {' and '.join(_NEEDED)}")
    if not _is_complete(target):
        _install(target, progress)
    return target


def has_pip() -> bool:
    """Not asked of the import system: setuptools gives its distutils up for good in a process that
    looks for pip."""
    try:
        importlib.metadata.distribution("pip")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _is_complete(target: Path) -> bool:
    return all((target / name / "__init__.py").is_file() for name in _NEEDED)


def _install(target: Path, progress: Progress) -> None:
    if not has_pip():
        raise QuantizeError(
            f"llm-compressor has to be installed and {sys.executable} has no pip. Run `uv pip "
            f"install --target DIR --no-deps --require-hashes -r {LOCK}` and set {VARIABLE}=DIR"
        )
    progress.say(f"Installing llm-compressor into {target}, once.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise QuantizeError(
            f"{target.parent} can't be written: {error.strerror}; set XDG_CACHE_HOME to a "
            "directory that can be"
        ) from None
    try:
        _pip_install(partial)
        try:
            partial.rename(target)
        except OSError:
            # Another process that ran for the first time was faster: what it put there is whole.
            if not _is_complete(target):
                raise QuantizeError(f"{target} is incomplete; remove it and try again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _pip_install(target: Path) -> None:
    flags = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input"]
    quiet = ["--quiet", "--progress-bar", "off", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, *quiet, "--target", str(target)]
    run = subprocess.run([*command, "-r", str(LOCK)], capture_output=True, text=True)
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        reason = "\n".join(f"  {line}" for line in (said or run.stderr.splitlines())[-3:])
        raise QuantizeError(
            f"llm-compressor could not be installed:\n{reason}\nCheck the network; behind a proxy "
            "set HTTPS_PROXY, with a mirror PIP_INDEX_URL. Without any index run `python3 -m pip "
            f"download --no-deps --require-hashes -r {LOCK} -d wheels` on a machine that has one, "
            "bring that folder, and run this again with PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels"
        )
