"""Runs the installers and explains their failures. Standard library only."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

Watch = Callable[[str], None]


class InstallError(Exception):
    """A step failed; the message says what to do. Running again goes on from there."""


class NotPublishedError(InstallError):
    """The index has no file of that version for this Python."""


# What an installer prints when it fails, and what its reader can do about it.
REMEDIES: tuple[tuple[str, type[InstallError], str], ...] = (
    (
        r"DO NOT MATCH THE HASHES|Hash mismatch",
        InstallError,
        "A downloaded file is not the one in the lock. Don't go on with it: find out what changes "
        "files between here and the package index (a proxy, a mirror), or clear pip's cache with "
        "`python3 -m pip cache purge` in case a download was cut off.",
    ),
    (
        r"No space left on device",
        InstallError,
        "The disk is full. Free some space, or set TMPDIR to a folder on another disk.",
    ),
    (
        r"NewConnectionError|ConnectTimeout|Read timed out|ReadTimeout|ProxyError|SSLError"
        r"|name resolution|Name or service not known|Connection (refused|reset)|dns error",
        InstallError,
        "The package index can't be reached. Check the network. Behind a proxy set HTTPS_PROXY; "
        "with a mirror set PIP_INDEX_URL; with a certificate of your own set PIP_CERT.",
    ),
    (
        r"No matching distribution|Could not find a version|[Nn]o usable wheels",
        NotPublishedError,
        "The package index has no such file for this Python. A mirror may be incomplete or behind; "
        "`python3 -m pip config list` shows where pip looks.",
    ),
)


def run(command: list[str], log: Path, watch: Watch | None = None) -> None:
    """Run `command` to its end, its output in `log` and, line by line, given to `watch`.

    Raises InstallError. Where we are interrupted the command is stopped first.
    """
    lines: list[str] = []
    note(log, f"$ {' '.join(command)}\n")
    with start(command) as child:
        try:
            for line in child.stdout or ():
                note(log, line)
                lines.append(line.rstrip())
                if watch:
                    watch(line)
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise explain(lines, log)


def note(log: Path, text: str) -> None:
    """Best effort: on a full disk it is the installer's own failure that has to be told."""
    with contextlib.suppress(OSError), log.open("a") as record:
        record.write(text)


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # The set-up's lock is inherited: were the set-up killed, the next one would still wait
        # for the installer it left behind.
        close_fds=False,
    )


def explain(lines: list[str], log: Path | None = None) -> InstallError:
    """The error for a failed step that printed `lines`, which are in `log` where there is one."""
    output = "\n".join(lines)
    told = "\n".join(f"  | {line}" for line in lines[-8:])
    if log is not None:
        told += f"\n  The whole output is in {log}."
    for pattern, kind, remedy in REMEDIES:
        if re.search(pattern, output):
            return kind(f"{remedy}\n{told}")
    return InstallError(f"A step failed:\n{told}")
