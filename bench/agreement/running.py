"""Runs one tool to its end and reads its report."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bench.agreement.load import Figures, Load, PromptFields
from bench.agreement.tool import Command, Tool
from bench.errors import BenchError
from bench.servers.server import output_tail


async def run_tool(
    tool: Tool, load: Load, prompts: Sequence[PromptFields], timeout_s: float
) -> Figures:
    """One run, in a folder of its own that goes away with it.

    Some tools exit with an error where requests failed; their report says so too. Raises
    BenchError, with the end of the tool's output: it has left no report, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="bench-agreement-") as name:
        folder = Path(name)
        log = folder / "output.log"
        ended = await _run(tool.name, tool.command(load, prompts, folder), log, timeout_s)
        try:
            return tool.read(folder)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BenchError(
                f"{tool.name} ended with exit code {ended} and without a report that can be read "
                f"({type(error).__name__}: {error}){output_tail(log)}"
            ) from error


async def _run(name: str, command: Command, log: Path, timeout_s: float) -> int:
    with log.open("wb") as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **command.environment},
                cwd=log.parent,
                # A Ctrl-C at the terminal is ours to pass on.
                start_new_session=True,
            )
        except OSError as error:
            raise BenchError(f"can't run {command.arguments[0]}: {error.strerror}") from error
        try:
            return await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            raise BenchError(
                f"{name} had not ended after {timeout_s:g} s (--timeout){output_tail(log)}"
            ) from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
