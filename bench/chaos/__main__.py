"""`python -m bench.chaos`: does the gateway keep its promises while everything breaks?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from bench.chaos.crashes import Crashes
from bench.chaos.deaths import Deaths
from bench.chaos.disk import disk
from bench.chaos.findings import Found
from bench.chaos.freeze import freeze
from bench.chaos.load import load
from bench.chaos.server import Place
from bench.cli.command import (
    Exit,
    add_start_timeout,
    at_least,
    check_outputs,
    command_parser,
    positive,
    run,
)
from bench.errors import BenchError
from bench.reports.report import write_json

Told = Callable[[int, int], None]
Part = Callable[[Place, argparse.Namespace, Told], Awaitable[Found]]

_DESCRIPTION = """\
Break a live gateway with the real engine on a tiny model, and look whether its promises hold.

load     mixed requests, some wrong, some hung up on, some read slowly, while the engine core is
         killed now and then; then the ledger, the usage sums and the engines' counts are compared
deaths   the engine core is killed under its streams: each ends in an error at once
resumed  the same, where streams are continued: to exactly the text they would have had
freeze   the engine core is stopped with work inside, and continued
crashes  the gateway itself is killed under load, and started again
disk     the disk with the database is full for a while

The model's answers are known beforehand, whatever is computed together, so every text is compared.
What is not as it has to be is named; then the exit code is 1.
"""

_EXAMPLES = """\
examples:
  python -m bench.chaos --json chaos.json
  python -m bench.chaos load --requests 1000 --load-kills 2
  python -m bench.chaos deaths resumed freeze

exit codes:
  0    every promise held
  1    some did not; they are named
  2    wrong usage, or a server can't be started
  130  stopped by Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _chaos(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.chaos", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="default: all of them"
    )
    parser.add_argument(
        "--requests", type=at_least(1), default=10_000, metavar="N", help="of load (default: 10000)"
    )
    parser.add_argument(
        "--concurrency", type=at_least(1), default=48, metavar="N", help="clients (default: 48)"
    )
    parser.add_argument(
        "--load-kills",
        type=at_least(0),
        default=5,
        metavar="N",
        help="of the engine core in load (default: 5)",
    )
    parser.add_argument(
        "--kills",
        type=at_least(1),
        default=20,
        metavar="N",
        help="of each of the parts deaths, resumed and crashes (default: 20)",
    )
    parser.add_argument(
        "--simulated", action="store_true", help="crashes with an engine that starts at once"
    )
    parser.add_argument(
        "--freezes", type=at_least(1), default=5, metavar="N", help="of freeze (default: 5)"
    )
    parser.add_argument(
        "--streams", type=at_least(1), default=8, metavar="N", help="under each kill (default: 8)"
    )
    parser.add_argument(
        "--tokens", type=at_least(8), default=2000, metavar="N", help="of each (default: 2000)"
    )
    parser.add_argument(
        "--disk-seconds",
        type=positive,
        default=240.0,
        metavar="S",
        help="on the full disk at most (default: 240)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it to FILE")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the servers' files in DIR")
    add_start_timeout(parser)
    return parser


async def _chaos(args: argparse.Namespace) -> Exit:
    check_outputs(args, "json")
    console = Console(stderr=True)
    found: list[Found] = []
    with TemporaryDirectory(prefix="bench-chaos-") as temporary:
        directory = args.logs or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        place = Place(directory.resolve(), args.start_timeout)
        for name in args.parts or PARTS:
            found.append(await _one(name, place, args, console))
            _show(found[-1], console)
    if args.json is not None:
        _write(args.json, found, args)
    return Exit.FAILED_REQUESTS if any(one.violations for one in found) else Exit.OK


async def _one(name: str, place: Place, args: argparse.Namespace, console: Console) -> Found:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
        task = progress.add_task(name, total=None)

        def told(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        begun = perf_counter()
        try:
            found = await PARTS[name](place, args, told)
        except BenchError as error:
            # What the parts after it would say is of interest still.
            found = Found(name, violations=[f"not finished: {error}"])
        found.figures["part_s"] = round(perf_counter() - begun, 1)
        return found


async def _load(place: Place, args: argparse.Namespace, told: Told) -> Found:
    return await load(
        place,
        requests=args.requests,
        concurrency=args.concurrency,
        kills=args.load_kills,
        seed=args.seed,
        told=told,
    )


async def _deaths(place: Place, args: argparse.Namespace, told: Told, *, resume: bool) -> Found:
    deaths = Deaths(place, resume=resume, streams=args.streams, tokens=args.tokens, seed=args.seed)
    return await deaths.run(args.kills, told)


async def _freeze(place: Place, args: argparse.Namespace, told: Told) -> Found:
    return await freeze(
        place,
        times=args.freezes,
        streams=args.streams,
        tokens=args.tokens,
        seed=args.seed,
        told=told,
    )


async def _crashes(place: Place, args: argparse.Namespace, told: Told) -> Found:
    crashes = Crashes(place, simulated=args.simulated, concurrency=args.concurrency, seed=args.seed)
    return await crashes.run(args.kills, told)


async def _disk(place: Place, args: argparse.Namespace, told: Told) -> Found:
    return await disk(
        place,
        concurrency=args.concurrency,
        seconds=args.disk_seconds,
        seed=args.seed,
        told=told,
    )


PARTS: dict[str, Part] = {
    "load": _load,
    "deaths": partial(_deaths, resume=False),
    "resumed": partial(_deaths, resume=True),
    "freeze": _freeze,
    "crashes": _crashes,
    "disk": _disk,
}


def _show(found: Found, console: Console) -> None:
    verdict = "[red]violated[/]" if found.violations else "[green]held[/]"
    console.print(f"[bold]{found.part}[/]: {verdict}")
    for name, value in found.figures.items():
        console.print(f"  {name}: {json.dumps(value)}", markup=False, highlight=False)
    for violation in found.violations:
        console.print(f"  ✗ {violation}", style="red", markup=False)


def _write(file: Path, found: Sequence[Found], args: argparse.Namespace) -> None:
    settings = {name: value for name, value in vars(args).items() if name not in ("json", "logs")}
    record = {
        "schema": "bench.chaos",
        "schema_version": 1,
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "held": not any(one.violations for one in found),
        "parts": [asdict(one) for one in found],
    }
    write_json(file, record)


if __name__ == "__main__":
    sys.exit(main())
