"""Makes `.venv` ready to serve: picks the lock, installs it, and does nothing the second time.

    sh scripts/setup.sh [--device auto|cpu|cuda] [--dev] [--dry-run]

Exit codes: 0 ready, 2 wrong arguments, 3 the machine is not suitable, 4 an installation failed,
130 or 143 interrupted. After 4, 130 and 143 running it again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.commands import InstallError, NotPublishedError, Watch, explain
from scripts.environment import Environment, digest, made_for
from scripts.machine import (
    Device,
    UnsuitableMachineError,
    choose_device,
    compiler_warnings,
    require_disk,
    require_platform,
)

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
TORCH_LOCK = REQUIREMENTS / "torch-cpu.lock"
UNSUITABLE, FAILED = 3, 4
TORCH_GIB = (1.0, 0.4)
PACKAGES_GIB: dict[Device, tuple[float, float]] = {"cpu": (1.5, 0.6), "cuda": (14.0, 6.0)}

CHECK = """\
import sys
import torch, transformers
from vllm.platforms import current_platform
if current_platform.device_type != sys.argv[1]:
    sys.exit(f"vLLM sees the device {current_platform.device_type!r}, not {sys.argv[1]!r}")
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the set-up; done once for each content of `sources`. `room`: the GiB it takes,
    unpacked and while it is downloaded."""

    name: str
    title: str
    sources: tuple[Path, ...]
    action: Callable[[Watch], None]
    room: tuple[float, float] = (0.0, 0.0)


def plan(env: Environment, device: Device, *, dev: bool) -> list[Step]:
    """Everything the environment needs, in order."""
    lock = REQUIREMENTS / f"{device}.lock"
    project = ROOT / "pyproject.toml"
    steps = [
        Step(
            "packages",
            f"packages from requirements/{lock.name}",
            (lock,),
            lambda watch: env.install_lock(lock, watch),
            PACKAGES_GIB[device],
        ),
        Step(
            "project",
            "the project itself",
            (project,),
            lambda watch: env.pip_install(
                "--no-build-isolation", "--no-index", "-e", str(ROOT), watch=watch
            ),
        ),
        Step(
            "check",
            "check that the engine loads",
            (lock, TORCH_LOCK),
            lambda _: env.run("python", "-c", CHECK, device),
        ),
    ]
    if device == "cpu":
        torch = Step(
            "torch",
            "torch for the CPU",
            (TORCH_LOCK,),
            lambda watch: install_cpu_torch(env, watch),
            TORCH_GIB,
        )
        steps.insert(0, torch)
    if dev:
        lock_dev = REQUIREMENTS / "dev.lock"
        steps.append(
            Step(
                "dev",
                "test tools from requirements/dev.lock",
                (lock_dev,),
                lambda watch: env.install_lock(lock_dev, watch),
            )
        )
    return steps


def install_cpu_torch(env: Environment, watch: Watch) -> None:
    """From wherever pip is configured to look; else from PyTorch's own index, which uv knows."""
    pin, hashed = torch_pin(TORCH_LOCK.read_text(), env.identity["python"])
    wanted = ["--require-hashes", "-r", str(TORCH_LOCK)] if hashed else [pin]
    if not hashed:
        say(
            f"    note: the lock knows no hash of {pin} for Python {env.identity['python']}; "
            "it is installed unchecked (Python 3.11 has one)"
        )
    try:
        env.pip_install("--only-binary", ":all:", *wanted, watch=watch)
        return
    except NotPublishedError:
        say(f"    pip's index has no {pin}; trying PyTorch's own")
    env.install_lock(REQUIREMENTS / "uv.lock", watch)
    flags = ["--torch-backend=cpu", "--no-deps", "--python", str(env.python)]
    try:
        env.run("uv", "pip", "install", *flags, *wanted)
    except InstallError as error:
        raise InstallError(
            f"{pin} is neither where pip looks nor on PyTorch's CPU index as seen from here. Put "
            f"its wheel into a folder, set PIP_FIND_LINKS to it, and run again.\n{error}"
        ) from None


def torch_pin(lock: str, python: str) -> tuple[str, bool]:
    """The pinned requirement, and whether the lock has its hash for this Python."""
    line = next(line for line in lock.splitlines() if line.startswith("torch=="))
    pin, _, marker = line.rstrip("\\").partition(";")
    return pin.strip(), "< '3.12'" not in marker or python == "3.11"


def say(text: str) -> None:
    """One line, in the place of an unfinished progress line."""
    clear = "\r\033[K" if sys.stdout.isatty() else ""
    print(f"{clear}{text}", flush=True)


def progress_line(step: Step) -> Watch:
    """Shows on a terminal how far pip is; elsewhere nothing."""
    if not sys.stdout.isatty():
        return lambda line: None
    total = sum(path.read_text().count("==") for path in step.sources if path.suffix == ".lock")
    seen = 0

    def watch(line: str) -> None:
        nonlocal seen
        if line.startswith(("Collecting ", "Processing ", "Requirement already satisfied: ")):
            seen += 1
            shown = f"{seen}/{total}"
        elif line.startswith("Installing collected packages"):
            shown = "unpacking"
        else:
            return
        sys.stdout.write(f"\r\033[K    {shown}")
        sys.stdout.flush()

    return watch


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two `make` at once must not write one environment. Held by the installers too."""
    folder = os.open(REQUIREMENTS, os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("set-up: another set-up of this folder is running; waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def set_up(env: Environment, device: Device, reason: str, *, dev: bool, dry_run: bool) -> None:
    """Raises UnsuitableMachineError, InstallError."""
    remake = env.read_stamp()
    sources = {step: digest(*step.sources) for step in plan(env, device, dev=dev)}
    todo = [step for step, made_from in sources.items() if env.done.get(step.name) != made_from]
    about = f"{device} ({reason}), Python {env.identity['python']}"
    if not remake and not todo:
        say(f"set-up: up to date: {about}")
        return
    say(f"set-up: {about}")
    unpacked, downloads = (sum(step.room[i] for step in todo) for i in (0, 1))
    require_disk(env.path, unpacked, downloads)
    for warning in compiler_warnings(env.path):
        say(f"  warning: {warning}")
    if remake:
        say(f"  make {env.path}: {remake}")
    if dry_run:
        for step in todo:
            say(f"  would install: {step.title}")
        return
    began = time.monotonic()
    if remake:
        env.create()
    env.forget_half_installed()
    for number, step in enumerate(todo, 1):
        say(f"  [{number}/{len(todo)}] {step.title}")
        start = time.monotonic()
        step.action(progress_line(step))
        env.finish(step.name, sources[step])
        say(f"    {time.monotonic() - start:.1f} s")
    say(f"set-up: ready in {time.monotonic() - began:.0f} s")


def guarded(name: str, work: Callable[[], None]) -> int:
    """The exit code of `work`, done while no other set-up of this folder is."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with one_at_a_time():
            work()
    except UnsuitableMachineError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return UNSUITABLE
    except (InstallError, OSError) as error:
        failure = explain([str(error)]) if isinstance(error, OSError) else error
        print(
            f"{name}: {failure}\n  Once that is settled, run it again; it goes on from here.",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="setup.sh", description="make .venv ready to serve")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    options = parser.parse_args()

    def work() -> None:
        require_platform()
        # Elsewhere where it is a link to a folder on another disk.
        path = options.venv.resolve()
        kept = made_for(path)
        choice = choose_device(options.device, kept.get("device"))
        python = {"python": sysconfig.get_python_version()}
        identity = {"device": choice.device, **python, "folder": str(ROOT)}
        if not os.environ.get("PYTHON") and kept | python == identity:
            identity = kept
        env = Environment(path, identity)
        set_up(env, choice.device, choice.reason, dev=options.dev, dry_run=options.dry_run)

    return guarded("set-up", work)


if __name__ == "__main__":
    sys.exit(main())
