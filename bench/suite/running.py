"""Runs the command of a part, and keeps what it prints."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import psutil

from bench.cli.command import Exit

_LAST_LINES = 25
_CLOCK_S = 0.5
_STATES = {
    Exit.OK: "done",
    Exit.FAILED_REQUESTS: "done, with failures",
    Exit.INTERRUPTED: "interrupted",
}


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended; `said` are the last lines it printed."""

    command: str
    started_at: str
    seconds: float
    exit_code: int
    said: tuple[str, ...]

    @property
    def interrupted(self) -> bool:
        return self.exit_code == Exit.INTERRUPTED

    @property
    def whole(self) -> bool:
        """Whether it came to its end, some requests having failed or not."""
        return self.exit_code in (Exit.OK, Exit.FAILED_REQUESTS)

    @property
    def state(self) -> str:
        found = [state for code, state in _STATES.items() if code == self.exit_code]
        return found[0] if found else "failed"


async def run_part(
    words: Sequence[str], shown: str, log: Path, on_life: Callable[[float, str], None]
) -> Ran:
    """Run `python WORDS`; all it prints goes to `log`. `shown` is the command for the report.

    `on_life` gets the seconds so far and the last line, twice a second. A cancellation is passed
    on as Ctrl-C and ends here, once the command has written what it had; a second one kills it.
    """
    started_at, start = datetime.now(UTC).isoformat(timespec="seconds"), perf_counter()
    last: deque[str] = deque(maxlen=_LAST_LINES)
    interrupted = False
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A Ctrl-C at the terminal is ours to pass on.
        start_new_session=True,
    )
    reading = asyncio.create_task(_keep(child, log, last))
    try:
        try:
            await _watch(reading, lambda: on_life(perf_counter() - start, last[-1] if last else ""))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            interrupted = True
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)
            await asyncio.wait({reading})
        code = await child.wait()
    finally:
        _kill_tree(child)
        reading.cancel()
    code = Exit.INTERRUPTED if interrupted else code
    return Ran(shown, started_at, perf_counter() - start, code, tuple(last))


def _kill_tree(part: asyncio.subprocess.Process) -> None:
    """The part, and what it has started: servers have sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        alive = part.returncode is None
        for one in psutil.Process(part.pid).children(recursive=True) if alive else ():
            with suppress(psutil.NoSuchProcess):
                one.kill()
    with suppress(ProcessLookupError):
        os.killpg(part.pid, signal.SIGKILL)


async def _watch(reading: asyncio.Task[None], on_life: Callable[[], None]) -> None:
    while not reading.done():
        await asyncio.wait({reading}, timeout=_CLOCK_S)
        on_life()


async def _keep(child: asyncio.subprocess.Process, log: Path, last: deque[str]) -> None:
    if child.stdout is None:
        return
    with log.open("wb") as file:
        # Not by lines: what a program prints without an end of line has no limit.
        rest = b""
        while some := await child.stdout.read(1 << 16):
            file.write(some)
            file.flush()
            *lines, rest = (rest + some)[-(1 << 20) :].split(b"\n")
            last.extend(text for line in lines if (text := line.decode(errors="replace").strip()))
        if rest.strip():
            last.append(rest.decode(errors="replace").strip())
