"""What the commands share: their parser, the options of the load, the event loop, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum

from rich.console import Console

from bench.errors import BenchError
from bench.measure import Settings

uvloop: object | None
try:
    import uvloop
except ImportError:  # works without; costs more CPU per chunk
    uvloop = None

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


def add_start_timeout(parser: argparse._ActionsContainer) -> None:
    """For commands that start servers."""
    parser.add_argument(
        "--start-timeout",
        type=positive,
        default=300.0,
        metavar="S",
        help="seconds to wait until a server is ready (default: 300)",
    )


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number not below `minimum`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    parse.__name__ = "whole number"
    return parse


def positive(text: str) -> float:
    """An argparse type: a number above zero."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which requests are sent."""
    load = parser.add_argument_group("load")
    load.add_argument(
        "--concurrency",
        type=at_least(1),
        default=32,
        metavar="N",
        help="requests in flight, always (default: 32)",
    )
    load.add_argument(
        "--requests",
        type=at_least(1),
        metavar="N",
        help="requests that are measured (default: 4 x concurrency)",
    )
    load.add_argument(
        "--warmup",
        type=at_least(0),
        metavar="N",
        help="requests sent before, not measured (default: the concurrency)",
    )
    load.add_argument(
        "--input-tokens",
        type=at_least(1),
        default=128,
        metavar="N",
        help="prompt tokens of each request, chat template included, exactly (default: 128)",
    )
    load.add_argument(
        "--output-tokens",
        type=at_least(1),
        default=128,
        metavar="N",
        help="completion tokens of each request, exactly (default: 128)",
    )
    load.add_argument(
        "--endpoint",
        choices=("chat", "completions"),
        default="chat",
        help="which API is measured (default: chat)",
    )
    load.add_argument(
        "--no-stream",
        action="store_true",
        help="ask for whole answers; then only E2EL can be measured",
    )
    load.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="sent with each request (default: 0)",
    )
    load.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the random prompts; a server that has seen them may answer from its prefix "
        "cache, so use another for each run against the same server (default: 0)",
    )
    load.add_argument(
        "--timeout",
        type=positive,
        default=600.0,
        metavar="S",
        help="seconds until a request counts as failed (default: 600)",
    )


def add_key_option(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--api-key",
        default=os.environ.get("OPENAI_API_KEY"),
        metavar="KEY",
        help="default: the environment variable OPENAI_API_KEY, if set",
    )


def settings_from(args: argparse.Namespace) -> Settings:
    """Raises BenchError: fewer requests than the concurrency, which then is never reached."""
    requests = 4 * args.concurrency if args.requests is None else args.requests
    if requests < args.concurrency:
        raise BenchError(
            f"--requests {requests} is below --concurrency {args.concurrency}, which could then "
            "never be reached"
        )
    return Settings(
        endpoint=args.endpoint,
        input_tokens=args.input_tokens,
        output_tokens=args.output_tokens,
        concurrency=args.concurrency,
        requests=requests,
        warmup=args.concurrency if args.warmup is None else args.warmup,
        seed=args.seed,
        stream=not args.no_stream,
        temperature=args.temperature,
        timeout_s=args.timeout,
    )


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
