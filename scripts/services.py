"""Runs a command beside a PostgreSQL and a Redis of its own, and stops both whatever happens.

    python -m scripts.services [--install] COMMAND...

The command finds them by GATEWAY_TEST_POSTGRES and GATEWAY_TEST_REDIS. They keep what they hold in
a temporary folder, listen on free ports of 127.0.0.1 and take a random password: servers that the
machine runs already are neither used nor disturbed. --install installs what is missing, as root on
Debian. Exit codes: the command's, 2 wrong arguments, 3 where the servers can't be had, 130 or 143
interrupted before the command began. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from scripts.servers import STOP_S, Owner, ServiceError, postgres, program, redis

UNAVAILABLE = 3
# Debian's package -> the programs it must bring.
PACKAGES = {"postgresql": ["initdb", "postgres"], "redis-server": ["redis-server"]}


def missing() -> list[str]:
    """The packages whose programs are not all there."""
    return [package for package, names in PACKAGES.items() if not all(map(program, names))]


def install(packages: list[str]) -> None:
    """Raises ServiceError."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ServiceError("only root can install them, where there is apt-get")
    print(f"services: install {', '.join(packages)}", flush=True)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-q", *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise ServiceError(f"apt-get {arguments[0]} failed:\n{done.stdout[-2000:]}")


def run(command: list[str]) -> int:
    """The command's exit code."""
    with contextlib.ExitStack() as stack:
        owner = Owner()
        home = tempfile.TemporaryDirectory(prefix="gateway-services-", dir=owner.temporary())
        folder = owner.folder(Path(stack.enter_context(home)))
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        environ |= {
            "GATEWAY_TEST_POSTGRES": stack.enter_context(postgres(folder / "postgres", owner)),
            "GATEWAY_TEST_REDIS": stack.enter_context(redis(folder / "redis", owner)),
        }
        return _run(command, environ)


def _run(command: list[str], environ: dict[str, str]) -> int:
    child = subprocess.Popen(command, env=environ)
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            pass  # the command has got it too, and ends in its own way
        except BaseException:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
            raise


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description="run a command beside PostgreSQL and Redis")
    parser.add_argument("--install", action="store_true", help="install what is missing")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if not given.command:
        parser.error("which command?")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    lacking = missing()
    if lacking and given.install:
        install(lacking)
        lacking = missing()
    if lacking:
        raise ServiceError(f"not installed: on Debian, apt-get install {' '.join(lacking)}")
    if not shutil.which(given.command[0]):
        parser.error(f"there is no command {given.command[0]}")
    return run(given.command)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
        sys.exit(UNAVAILABLE)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
