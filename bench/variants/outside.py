"""Runs another command of `bench` as a program of its own, and reads its report."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.errors import BenchError

_TAIL_LINES = 5
_STOP_S = 10.0


async def report_of(module: str, arguments: Sequence[str], api_key: str | None) -> dict[str, Any]:
    """The JSON that `python -m MODULE … --json FILE` writes.

    Where this is cancelled the program is stopped. Raises BenchError, with the end of what it
    said: it wrote none.
    """
    environ = dict(os.environ) | ({"OPENAI_API_KEY": api_key} if api_key else {})
    with tempfile.TemporaryDirectory(prefix="bench-variants-") as directory:
        file = Path(directory) / "report.json"
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *arguments, "--json", str(file)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
            start_new_session=True,  # a Ctrl-C at the terminal is ours to pass on
        )
        try:
            _, said = await child.communicate()
        finally:
            await _stop(child)
        return _read(file, f"{module} ended with exit code {child.returncode}", said)


def _read(file: Path, what: str, said: bytes) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        tail = said.decode(errors="replace").strip().splitlines()[-_TAIL_LINES:]
        raise BenchError(f"{what}: " + ("\n".join(tail) or "it said nothing")) from None
    if not isinstance(found, dict):
        raise BenchError(f"{what}: its report is no JSON object")
    return found


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    child.send_signal(signal.SIGINT)
    with suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), _STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()
