"""The environment of lm-evaluation-harness, apart from the project's own: it is large, and pins
what the server doesn't want. Made once from `harness.lock`, and again when that changes."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.errors import BenchError
from bench.quality.shipped import lay_out

_FOLDER = Path(__file__).parent
_LOCK = _FOLDER / "harness.lock"
_HOME = _FOLDER.parent.parent / ".lm-eval"
_STEP = "Python packages"


@dataclass(frozen=True, slots=True)
class Harness:
    """What is installed. `data` has data sets by their names on the Hugging Face Hub."""

    python: Path
    data: Path


def installed(console: Console) -> Harness:
    """Installs what is missing. Raises BenchError."""
    try:
        from scripts.commands import InstallError
        from scripts.environment import Environment, digest
    except ImportError as error:
        raise BenchError("--tasks works from a checkout of the project only") from error
    _HOME.mkdir(exist_ok=True)
    # Nothing in here is the project's; tools that read .gitignore pass it by.
    (_HOME / ".gitignore").write_text("*\n", encoding="utf-8")
    env = Environment(_HOME / "venv", {"python": sysconfig.get_python_version()})
    try:
        if env.read_stamp():
            env.create()
        made_from = digest(_LOCK)
        if env.done.get(_STEP) != made_from:
            env.forget_half_installed()
            with console.status("installing lm-evaluation-harness, once"):
                env.install_lock(_LOCK)
            env.finish(_STEP, made_from)
    except InstallError as error:
        raise BenchError(f"lm-evaluation-harness can't be installed: {error}") from error
    return Harness(env.python, lay_out(_HOME))
