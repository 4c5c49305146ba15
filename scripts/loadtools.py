"""Makes `.loadtools`: Locust and GuideLLM in an environment of their own, from a lock.

    python -m scripts.loadtools

What is there already is left as it is; an interrupted run goes on where it stopped. Exit codes: 0
ready, 4 an installation failed, 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from scripts.environment import Environment, digest
from scripts.setup import REQUIREMENTS, ROOT, TORCH_LOCK, guarded, install_cpu_torch

LOCK = REQUIREMENTS / "loadtools.lock"
PROGRAMS = ("locust", "guidellm")


def install(home: Path) -> None:
    """Install what is missing. Raises InstallError."""
    env = Environment(home, {"python": sysconfig.get_python_version(), "folder": str(ROOT)})
    if env.read_stamp():
        env.create()
    env.forget_half_installed()
    # GuideLLM loads its prompts through torch; the build without CUDA is a tenth of the other.
    _once(env, "torch", TORCH_LOCK, lambda: install_cpu_torch(env, lambda line: None))
    _once(env, "packages", LOCK, lambda: env.install_lock(LOCK))


def _once(env: Environment, step: str, source: Path, action: Callable[[], None]) -> None:
    made_from = digest(source)
    if env.done.get(step) != made_from:
        print(f"load tools: install {step} from {source.relative_to(ROOT)}", flush=True)
        action()
        env.finish(step, made_from)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.loadtools",
        description=f"install {' and '.join(PROGRAMS)} in an environment of their own",
    )
    parser.add_argument("--home", type=Path, default=ROOT / ".loadtools", metavar="DIR")
    home = parser.parse_args().home.resolve()

    def work() -> None:
        install(home)
        print(f"load tools: ready in {home / 'bin'}")

    return guarded("load tools", work)


if __name__ == "__main__":
    sys.exit(main())
