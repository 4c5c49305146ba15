"""The clients' own environment, `.conformance`: a virtual environment and Node packages, both from
locks, made once for each content of these."""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from scripts.commands import InstallError, run
from scripts.environment import Environment, digest
from scripts.lock import pins

_NPM_FILES = ("package.json", "package-lock.json", ".npmrc")


@dataclass(frozen=True, slots=True)
class Clients:
    """What is installed. `versions` are those the locks name, by package; those of Node are written
    `npm:package`."""

    home: Path
    versions: dict[str, str]

    @property
    def python(self) -> Path:
        return self.home / "venv" / "bin" / "python"

    @property
    def node(self) -> Path:
        return self.home / "node" / "node_modules" / ".bin" / "node"

    def client(self, package: str) -> str:
        """For people: the package and its version."""
        return f"{package.removeprefix('npm:')} {self.versions[package]}"


def install(home: Path, folder: Path, console: Console, *, node: bool) -> Clients:
    """Install what `folder`'s locks name below `home`; Node's only where `node` asks for it.

    Raises InstallError.
    """
    home.mkdir(exist_ok=True)
    lock = folder / "requirements.lock"
    identity = {"python": sysconfig.get_python_version(), "folder": str(folder)}
    env = Environment(home / "venv", identity)
    if env.read_stamp():
        env.create()
    env.forget_half_installed()
    _once(env, "Python packages", [lock], console, lambda: env.install_lock(lock))
    if node:
        files = [folder / name for name in _NPM_FILES]
        _once(
            env, "Node packages", files, console, lambda: _install_node(env, home / "node", files)
        )
        _copy_tests(folder / "node", home / "node" / "tests")
    declared = json.loads((folder / "package.json").read_text())["dependencies"]
    npm = {f"npm:{name}": version for name, version in declared.items()}
    return Clients(home, pins(lock.read_text()) | npm)


def _once(
    env: Environment, step: str, sources: list[Path], console: Console, action: Callable[[], None]
) -> None:
    made_from = digest(*sources)
    if env.done.get(step) == made_from:
        return
    console.print(f"conformance: install {step}, once", style="dim")
    action()
    env.finish(step, made_from)


def _install_node(env: Environment, target: Path, files: list[Path]) -> None:
    """Node itself is one of the packages; npm alone has to be there."""
    if shutil.which("npm") is None:
        raise InstallError(
            "npm isn't on the PATH; the suites of Node clients need it. Install it, or name the "
            "suites to run with --suite."
        )
    target.mkdir(exist_ok=True)
    for file in files:
        shutil.copy(file, target)
    run(["npm", "--prefix", str(target), "ci"], env.log)


def _copy_tests(source: Path, target: Path) -> None:
    """Node looks for packages above a module's own file."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
