"""`python -m bench.compare`: two servers side by side, round by round, in one run."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.cli.command import (
    EXIT_CODES,
    Exit,
    add_key_option,
    add_load_options,
    at_least,
    check_outputs,
    command_parser,
    early_exit,
    positive,
    redacted,
    run,
    settings_from,
)
from bench.cli.progress import LiveProgress, live_progress
from bench.errors import BenchError
from bench.measuring.measure import Settings
from bench.reports.comparison import INTERRUPTED, Round, compare_rounds, to_markdown, to_record
from bench.reports.plot import to_svg
from bench.reports.report import any_failed, write_json
from bench.servers.contenders import Contender, Contestant, parse_contender, up
from bench.servers.preset import vllm_preset
from bench.servers.subject import parse_subject
from bench.trial import prompts_for, trial

_DESCRIPTION = """\
Measure two OpenAI-compatible servers side by side: the same prompts, the same load, interleaved.

Both servers are up the whole time and are measured in turns, AB in odd rounds and BA in even
ones, so that a machine that changes its speed changes it for both. The CPU time of the server
that waits is measured too. Each metric is judged by the ratio A / B of every round: the median
with its bootstrap 95% interval; no conclusion where the interval holds 1 or rounds are few.
"""

_EXAMPLES = f"""\
examples:
  # two configurations of the gateway
  python -m bench.compare configs/default.yaml my.yaml

  # the gateway against vLLM's own server, same model and engine settings
  python -m bench.compare --preset vllm --config configs/default.yaml

  # any two servers; {{port}} and {{python}} are filled in
  python -m bench.compare \\
      --server a='{{python}} -m gateway serve --config configs/default.yaml --port {{port}}' \\
      --server b='{{python}} -m gateway serve --config my.yaml --port {{port}}'

  # two that run already
  python -m bench.compare --server old=http://10.0.0.1:8000/v1 --server new=http://10.0.0.2:8000/v1

{EXIT_CODES}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _compare(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.compare", _DESCRIPTION, _EXAMPLES)
    servers = parser.add_argument_group("servers")
    servers.add_argument(
        "servers",
        nargs="*",
        metavar="A B",
        help="the two: each a configuration of the gateway, a URL, or NAME= and one of these",
    )
    servers.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="NAME=URL|COMMAND",
        help="one of the two, A first; twice",
    )
    servers.add_argument(
        "--preset", choices=("vllm",), help="A: the gateway on --config; B: vLLM's server alike"
    )
    servers.add_argument(
        "--config", type=Path, metavar="FILE", help="the gateway configuration of --preset"
    )
    servers.add_argument(
        "--model-path", metavar="DIR", help="with --preset: what vLLM's server gets as --model"
    )
    servers.add_argument(
        "--vllm-args", default="", metavar="ARGS", help="with --preset: more for vLLM's server"
    )
    servers.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set for both servers; repeatable",
    )
    add_key_option(servers)
    servers.add_argument(
        "--start-timeout",
        type=positive,
        default=900.0,
        metavar="S",
        help="seconds to wait until each server is ready (default: 900)",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="default: 5; both in each"
    )
    add_load_options(parser)
    for name in ("json", "markdown", "svg"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} to FILE")
    return parser


async def _compare(args: argparse.Namespace) -> Exit:
    check_outputs(args, "json", "markdown", "svg")
    settings = settings_from(args)
    (first, second), environment = _contenders(args)
    environ = {**environment, **os.environ, **_assignments(args.env)}
    console = Console(stderr=True)
    async with AsyncExitStack() as stack:
        # One after the other: two that start at once take each other's time.
        one = await _started(stack, first, environ, args, console)
        other = await _started(stack, second, environ, args, console)
        with live_progress(console) as bar:
            rounds, stopped = await _rounds((one, other), settings, args, bar)
    names = (first.name, second.name)
    effective = [f"{name}={environ[name]}" for name in {**environment, **_assignments(args.env)}]
    servers = {one.name: one.shown() for one in (first, second)}
    shown = _assignments(redacted(effective))
    return _published(names, rounds, servers, shown, args, stopped=stopped)


def _contenders(args: argparse.Namespace) -> tuple[tuple[Contender, Contender], dict[str, str]]:
    if args.preset is None:
        named = [*map(parse_subject, args.servers), *map(parse_contender, args.server)]
        if len(named) != 2:
            raise BenchError(
                f"give two servers, A and B or --server twice, or --preset; there are {len(named)}"
            )
        first, second = named
        if first.name == second.name:
            raise BenchError(
                f"both servers are called {first.name}; name them: a={first.name} b={first.name}"
            )
        return (first, second), {}
    if args.server or args.servers or args.config is None:
        raise BenchError("--preset needs --config and no other server")
    has_gpu = Path("/dev/nvidiactl").exists()
    ours, peer, environment = vllm_preset(args.config, model_path=args.model_path, has_gpu=has_gpu)
    peer = replace(peer, command=(*peer.command, *shlex.split(args.vllm_args)))
    return (ours, peer), environment


def _assignments(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise BenchError(f"--env {pair}: expected NAME=VALUE")
        found[name] = value
    return found


async def _started(
    stack: AsyncExitStack,
    contender: Contender,
    environ: Mapping[str, str],
    args: argparse.Namespace,
    console: Console,
) -> Contestant:
    with console.status(f"starting {contender.name}") as status:
        started = await stack.enter_async_context(
            up(
                contender,
                environ,
                args.start_timeout,
                lambda waited: status.update(f"starting {contender.name}: {waited:.0f} s"),
            )
        )
    if started.child is not None:
        console.print(f"{started.name} was ready after {started.child.ready_after_s:.1f} s")
    return started


async def _rounds(
    both: tuple[Contestant, Contestant],
    settings: Settings,
    args: argparse.Namespace,
    bar: Progress,
) -> tuple[list[Round], str | None]:
    """Every complete round, and what ended them early. Raises BenchError: in the first."""
    rounds: list[Round] = []
    try:
        for number in range(1, args.rounds + 1):
            # New prompts each round: the servers have those of the last in their prefix caches.
            fresh = replace(settings, seed=settings.seed + number - 1)
            one = await _round(number, both, fresh, args, bar)
            if one is None:
                return rounds, INTERRUPTED
            rounds.append(one)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        return rounds, INTERRUPTED
    except BenchError as error:
        if not rounds:
            raise
        return rounds, str(error)
    return rounds, None


async def _round(
    number: int,
    both: tuple[Contestant, Contestant],
    settings: Settings,
    args: argparse.Namespace,
    bar: Progress,
) -> Round | None:
    """Measure both, who is first alternating; None where it was interrupted."""
    # Both get the same prompts, and so of the same number of tokens, as the first counts them.
    workload = await prompts_for(both[0], settings, model=None, api_key=args.api_key)
    order = both if number % 2 else (both[1], both[0])
    records: dict[str, dict[str, Any]] = {}
    for one, other in (order, order[::-1]):
        progress = LiveProgress(bar, f"round {number} of {args.rounds}, {one.name}: ")
        record = await trial(one, settings, workload, progress, api_key=args.api_key, idle=other)
        progress.finish()
        if record["interrupted"]:
            return None
        records[one.name] = record
    return Round(number, (order[0].name, order[1].name), records)


def _published(
    names: tuple[str, str],
    rounds: Sequence[Round],
    servers: Mapping[str, Any],
    environment: Mapping[str, str],
    args: argparse.Namespace,
    *,
    stopped: str | None,
) -> Exit:
    findings = compare_rounds(names, rounds)
    markdown = to_markdown(names, rounds, findings, stopped)
    print(markdown, end="")
    if args.json is not None:
        write_json(args.json, to_record(names, rounds, findings, servers, environment, stopped))
    if args.markdown is not None:
        args.markdown.write_text(markdown, encoding="utf-8")
    if args.svg is not None:
        args.svg.write_text(to_svg(names, findings), encoding="utf-8")
    if stopped is not None:
        return early_exit(stopped)
    failed = any(any_failed(record) for one in rounds for record in one.records.values())
    return Exit.FAILED_REQUESTS if failed else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
