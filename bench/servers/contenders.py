"""The servers of a comparison: running already, or to be started."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bench.cli.redaction import redacted
from bench.errors import BenchError
from bench.servers.server import ChildServer, free_port, running_server


@dataclass(frozen=True, slots=True)
class Contender:
    """A named server: the URL of one that runs, or a command with a `{port}` in it."""

    name: str
    url: str | None = None
    command: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """As others may read it: without keys and passwords."""
        return {"url": self.url and redacted([self.url])[0], "command": redacted(self.command)}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that is up. `child` is None for one that was not started here."""

    name: str
    base_url: str
    child: ChildServer | None

    def cpu_s(self) -> float | None:
        """CPU seconds so far of the server and its children; None where they can't be seen."""
        return self.child.cpu_s() if self.child else None


def parse_contender(text: str) -> Contender:
    """Read `NAME=URL` or `NAME=COMMAND`. Raises BenchError."""
    name, separator, what = text.partition("=")
    name, what = name.strip(), what.strip()
    if not separator or not name or not what:
        raise BenchError(f"--server {text}: expected NAME=URL or NAME=COMMAND")
    if what.startswith(("http://", "https://")):
        return Contender(name, url=what.rstrip("/"))
    try:
        command = tuple(shlex.split(what))
    except ValueError as error:
        raise BenchError(f"--server {name}: {error}") from error
    if not any("{port}" in part for part in command):
        raise BenchError(f"--server {name}: the command has no {{port}} to listen on")
    return Contender(name, command=command)


@asynccontextmanager
async def up(
    contender: Contender,
    environ: Mapping[str, str],
    start_timeout_s: float,
    on_wait: Callable[[float], None],
) -> AsyncIterator[Contestant]:
    """Start the server, where it has to be, and stop it on leaving. Raises BenchError."""
    if contender.url is not None:
        yield Contestant(contender.name, contender.url, None)
        return
    port = free_port()
    words = {"{port}": str(port), "{python}": sys.executable}
    command = [_replaced(part, words) for part in contender.command]
    try:
        async with running_server(
            command, port, environ=environ, start_timeout_s=start_timeout_s, on_wait=on_wait
        ) as child:
            yield Contestant(contender.name, child.base_url, child)
    except BenchError as error:
        raise BenchError(f"{contender.name}: {error}") from error


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
