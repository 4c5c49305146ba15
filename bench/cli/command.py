"""What the commands share: their parser, the options of the load, the event loop, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from pathlib import Path

from rich.console import Console

from bench.cli.choices import settings_from
from bench.cli.options import add_load_options
from bench.cli.quantities import at_least, positive
from bench.cli.redaction import redacted
from bench.errors import BenchError
from bench.reports.comparison import INTERRUPTED

uvloop: object | None
try:
    import uvloop
except ImportError:  # works without; costs more CPU per chunk
    uvloop = None

__all__ = [
    "EXIT_CODES", "Exit", "add_key_option", "add_load_options", "add_start_timeout", "at_least",
    "check_outputs", "command_parser", "early_exit", "event_loop_name", "positive", "redacted",
    "run", "settings_from",
]  # fmt: skip

EXIT_CODES = """exit codes:
  0    every request succeeded
  1    at least one request failed; the report says why
  2    wrong usage, or the server can't be reached or started
  130  stopped by Ctrl-C; what had been measured is printed
"""


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED_REQUESTS = 1
    UNUSABLE = 2
    INTERRUPTED = 130


def command_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser whose texts are shown as they are written, and which guesses at no option."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def check_outputs(args: argparse.Namespace, *names: str) -> None:
    """Before anything is measured. Raises BenchError: a file that is to be written to is, or lacks,
    a directory, or may not be; `names` are the options that say where."""
    for name in names:
        file: Path | None = getattr(args, name)
        if file is None:
            continue
        directory = file.absolute().parent
        if not directory.is_dir():
            raise BenchError(f"--{name} {file}: there is no directory {directory}")
        if file.is_dir():
            raise BenchError(f"--{name} {file}: that is a directory; give a file in it")
        # A report in JSON replaces what is there (`write_json`), which is the directory's affair.
        in_place = name != "json" and file.exists()
        if not os.access(file if in_place else directory, os.W_OK):
            raise BenchError(f"--{name} {file}: can't be written to")


def add_start_timeout(parser: argparse._ActionsContainer) -> None:
    """For commands that start servers."""
    parser.add_argument(
        "--start-timeout",
        type=positive,
        default=300.0,
        metavar="S",
        help="seconds to wait until a server is ready (default: 300)",
    )


def add_key_option(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--api-key",
        default=os.environ.get("OPENAI_API_KEY"),
        metavar="KEY",
        help="default: the environment variable OPENAI_API_KEY, if set",
    )


def early_exit(stopped: str) -> Exit:
    """The exit code, once what had been measured is printed; says what went wrong, if anything."""
    if stopped == INTERRUPTED:
        return Exit.INTERRUPTED
    Console(stderr=True, soft_wrap=True).print(f"error: {stopped}", style="red", markup=False)
    return Exit.UNUSABLE


def event_loop_name() -> str:
    return "asyncio" if uvloop is None else "uvloop"


def run(program: Callable[[], Awaitable[Exit]]) -> int:
    """Run a command to its exit code; Ctrl-C and SIGTERM cancel it."""
    factory = None if uvloop is None else uvloop.new_event_loop  # type: ignore[attr-defined]
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return int(runner.run(_cancelled_by_signals(program)))
    except BenchError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        return Exit.UNUSABLE
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("interrupted before anything was measured", file=sys.stderr)
        return Exit.INTERRUPTED


async def _cancelled_by_signals(program: Callable[[], Awaitable[Exit]]) -> Exit:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
    return await program()
