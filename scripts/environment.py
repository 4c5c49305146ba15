"""The virtual environment: made, filled from the locks, and remembered.

What is finished is written to `.setup.json` inside it after every step, so that a second run does
nothing and an interrupted one goes on where it stopped. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from scripts.commands import InstallError, Watch, run

STAMP = ".setup.json"
LOG = ".setup.log"


def digest(*paths: Path) -> str:
    """One hash of the files' bytes."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def made_for(path: Path) -> dict[str, str]:
    """The identity of the environment there; empty where there is none, or none that runs."""
    try:
        identity = dict(json.loads((path / STAMP).read_text())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return identity if (path / "bin" / "python").exists() else {}


@dataclass
class Environment:
    """A virtual environment for one project folder, device and Python (its `identity`).

    `done` maps a finished step to the digest of what it was made from.
    """

    path: Path
    identity: dict[str, str]
    done: dict[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def read_stamp(self) -> str | None:
        """Load what is finished. Returns why the environment must be made (again), or None.

        Raises InstallError: the folder holds something else.
        """
        self.done = {}
        if not self.path.exists():
            return "there is none yet"
        try:
            stamp = json.loads((self.path / STAMP).read_text())
            identity, done = dict(stamp["identity"]), dict(stamp["done"])
        except (OSError, ValueError, KeyError, TypeError):
            if not self._is_ours():
                raise InstallError(
                    f"{self.path} exists and is not a virtual environment; move it away."
                ) from None
            return "it is incomplete"
        if identity != self.identity:
            other = [f"{key} {value}" for key, value in identity.items()]
            return f"it was made for {', '.join(other)}"
        if not self.python.exists():
            return "its Python is gone"
        self.done = done
        return None

    def _is_ours(self) -> bool:
        if not self.path.is_dir():
            return False
        return (self.path / "pyvenv.cfg").exists() or not set(self.path.iterdir()) - {self.log}

    @property
    def log(self) -> Path:
        return self.path / LOG

    def create(self) -> None:
        """Make the environment. One that was finished for something else is emptied first; one
        whose making was cut off, or that was made by hand with this Python, is kept and completed.
        """
        finished = (self.path / STAMP).exists()
        usable = (self.path / "bin" / f"python{self.identity['python']}").exists()
        self.path.mkdir(parents=True, exist_ok=True)
        flags = ["--clear"] if finished or not usable else []
        run([sys.executable, "-m", "venv", *flags, str(self.path)], self.log)
        self.done = {}
        self._write_stamp()

    def finish(self, step: str, made_from: str) -> None:
        """Remember that `step` is done."""
        self.done[step] = made_from
        self._write_stamp()

    def _write_stamp(self) -> None:
        # Atomic: a killed set-up leaves the old stamp or the new one.
        partial = self.path / f"{STAMP}.partial"
        partial.write_text(json.dumps({"identity": self.identity, "done": self.done}, indent=1))
        partial.replace(self.path / STAMP)

    def forget_half_installed(self) -> None:
        """pip writes INSTALLER last: a package without it was cut off while it was unpacked, and
        pip would take it for installed."""
        for info in self.path.glob("lib/python*/site-packages/*.dist-info"):
            if not (info / "INSTALLER").exists():
                shutil.rmtree(info)

    def pip_install(self, *arguments: str, watch: Watch | None = None) -> None:
        """Exactly what is named, without its dependencies."""
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        flags = ["--no-deps", "--progress-bar", "off", "--no-warn-script-location"]
        run([*pip, "install", *flags, *arguments], self.log, watch)

    def install_lock(self, lock: Path, watch: Watch | None = None) -> None:
        """Wheels only: nothing is built, and every file's hash is in the lock."""
        flags = ["--require-hashes", "--only-binary", ":all:"]
        self.pip_install(*flags, "-r", str(lock), watch=watch)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the environment's own programs."""
        run([str(self.path / "bin" / program), *arguments], self.log)
