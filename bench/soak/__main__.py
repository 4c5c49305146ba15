"""`python -m bench.soak`: what a server keeps up, and what it keeps, when clients misbehave."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress, TaskID

from bench.cli.command import (
    Exit,
    add_start_timeout,
    at_least,
    check_outputs,
    command_parser,
    positive,
    run,
)
from bench.cli.head import head
from bench.cli.progress import live_progress
from bench.errors import BenchError
from bench.reports.report import write_json
from bench.servers.contenders import up
from bench.servers.server import ChildServer
from bench.soak.fairness import Seen, Size, crowd, watch
from bench.soak.leaks import FEWEST, Tally, leaks, load
from bench.soak.report import (
    fairness_record,
    leaks_record,
    memory_svg,
    print_fairness,
    print_leaks,
)
from bench.tiny.model import TinyModel
from bench.tiny.servers import NAME, SEEDED, tiny_servers
from bench.utilization.process import settled

SCHEMA_VERSION = 1
_SETTLE_S = 30.0
# The memory of the KV cache is the process's once it has been used, which of this much it has been
# by the end of the warm-up.
_SMALL_CACHE = {**SEEDED, "kv_cache_gib": 0.0625}

_DESCRIPTION = """\
Load a server, started for it on a model made for it, with clients that misbehave.

fairness  many streams at once, in turns with all readers healthy and with some that stop
          reading or hang up in the middle: what the others see of it, as ratios
leaks     short requests of every kind, hang-ups and bad ones among them, and whether the
          serving process's memory, descriptors and threads, and the server's gauges, are
          back afterwards; the memory of the engine's own processes is shown beside it
"""

_EXAMPLES = f"""\
examples:
  python -m bench.soak fairness --rounds 3
  python -m bench.soak leaks --requests 100000 --svg memory.svg

  # another server; it has to serve the model in {{model}} as {NAME!r}
  python -m bench.soak leaks --server 'old={{python}} -m gateway serve --config old.yaml
      --model {{model}} --set model_name={NAME} --port {{port}}'

exit codes:
  0    nothing leaked, and every answer was right
  1    something leaked, or an answer was wrong or missing
  2    wrong usage, or the server can't be reached or started
  130  stopped by Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _fairness(args) if args.test == "fairness" else _leaks(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.soak", _DESCRIPTION, _EXAMPLES)
    tests = parser.add_subparsers(dest="test", required=True)
    fairness = tests.add_parser("fairness", help="what healthy readers see of others")
    _number(fairness, "--concurrency", 1000, "streams at once")
    _number(fairness, "--streams", 8000, "streams of a run, 64 to 192 tokens each")
    _number(fairness, "--rounds", 3, "each with a healthy and a disturbed run")
    _number(fairness, "--max-num-seqs", 256, "of the engine, where --server isn't given")
    fairness.add_argument(
        "--stall",
        type=positive,
        default=60.0,
        metavar="S",
        help="seconds that one reader in twenty reads nothing (default: 60)",
    )
    leaking = tests.add_parser("leaks", help="what the server still holds afterwards")
    _number(leaking, "--requests", 100_000, "up to 16 tokens each", FEWEST)
    _number(leaking, "--warmup", 20_000, "requests sent before, not judged")
    _number(leaking, "--concurrency", 64, "requests at once")
    _number(leaking, "--max-num-seqs", 256, "of the engine, where --server isn't given")
    leaking.add_argument("--svg", type=Path, metavar="FILE", help="draw the memory to FILE")
    for test in (fairness, leaking):
        test.add_argument(
            "--server",
            metavar="NAME=COMMAND",
            help="{port}, {python} and {model} are filled in (default: the gateway)",
        )
        test.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
        add_start_timeout(test)
        test.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser


def _number(
    parser: argparse.ArgumentParser, name: str, default: int, meaning: str, fewest: int = 1
) -> None:
    parser.add_argument(
        name,
        type=at_least(fewest),
        default=default,
        metavar="N",
        help=f"{meaning} (default: {default})",
    )


async def _fairness(args: argparse.Namespace) -> Exit:
    check_outputs(args, "json")
    size = Size(args.concurrency, args.streams, share=0.05, stall_s=args.stall)
    if size.streams < size.concurrency:
        raise BenchError("--streams is below --concurrency, which could then never be reached")
    console = Console(stderr=True)
    patience = {"write_timeout_s": 2 * args.stall + 60}
    async with _server(args, console, engine={}, server=patience) as (model, server):
        with live_progress(console) as bar:

            async def one_run(label: str, size: Size, number: int, *, disturbed: bool) -> Seen:
                task = bar.add_task(label, total=size.streams, running="")
                # New prompts each time: the server has those of the last in its prefix cache.
                seed = args.seed + number
                try:
                    return await watch(
                        server.base_url,
                        crowd(model, size, seed),
                        size.concurrency,
                        seed,
                        disturbed=disturbed,
                        on_progress=partial(_advance, bar, task),
                    )
                finally:
                    bar.remove_task(task)

            warmup = replace(size, streams=size.concurrency)
            await one_run("warm-up", warmup, 2 * args.rounds, disturbed=False)
            runs = []
            for number in range(2 * args.rounds):
                disturbed = number % 4 in (1, 2)  # the order alternates
                label = f"round {number // 2 + 1}, {'disturbed' if disturbed else 'healthy'}"
                runs.append(await one_run(label, size, number, disturbed=disturbed))
    print_fairness(runs, Console(soft_wrap=True))
    _write(args, fairness_record(runs))
    return Exit.FAILED_REQUESTS if any(one.faults for one in runs) else Exit.OK


async def _leaks(args: argparse.Namespace) -> Exit:
    check_outputs(args, "json", "svg")
    console = Console(stderr=True)
    async with _server(args, console, engine=_SMALL_CACHE, server={}) as (model, server):

        async def send(label: str, count: int, seed: int) -> Tally:
            with live_progress(console) as bar:
                task = bar.add_task(label, total=count, running="")
                return await load(
                    server,
                    model,
                    count,
                    seed,
                    concurrency=args.concurrency,
                    on_progress=partial(_advance, bar, task),
                )

        try:
            warmup = await send("warm-up", args.warmup, args.seed)
            before = await settled(server, None, _SETTLE_S)
            tally = await send("requests", args.requests, args.seed + args.warmup)
            after = await settled(server, before, _SETTLE_S)
        except psutil.NoSuchProcess:
            raise BenchError("the server ended while it was under load") from None
    tally.faults[:0] = warmup.faults
    found = leaks(tally.points, before, after)
    print_leaks(tally, before, after, found, Console(soft_wrap=True))
    _write(args, leaks_record(tally, before, after, found))
    if args.svg is not None:
        args.svg.write_text(memory_svg(tally.points), encoding="utf-8")
    return Exit.FAILED_REQUESTS if found or tally.faults else Exit.OK


def _advance(bar: Progress, task: TaskID, done: int) -> None:
    bar.update(task, completed=done)


@asynccontextmanager
async def _server(
    args: argparse.Namespace,
    console: Console,
    *,
    engine: Mapping[str, Any],
    server: Mapping[str, Any],
) -> AsyncIterator[tuple[TinyModel, ChildServer]]:
    """The one server of a test and the model it has; `engine` and `server` are in its
    configuration where it is the gateway."""
    with TemporaryDirectory(prefix="bench-soak-") as directory:
        servers = tiny_servers(
            Path(directory),
            [args.server] if args.server else [],
            engine={**engine, "max_num_seqs": args.max_num_seqs},
            server=server,
        )
        one = servers.contenders[0]
        environ = {**servers.environment, **os.environ}
        with console.status(f"starting {one.name}") as status:
            async with up(one, environ, args.start_timeout, lambda _waited: None) as running:
                status.stop()
                if running.child is None:
                    raise BenchError("give a command, not a URL: the process has to be watched")
                yield servers.model, running.child


def _write(args: argparse.Namespace, record: dict[str, Any]) -> None:
    if args.json is not None:
        write_json(args.json, {**head(f"bench.soak.{args.test}", SCHEMA_VERSION, args), **record})


if __name__ == "__main__":
    sys.exit(main())
