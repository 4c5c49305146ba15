"""`python -m bench.components`: where the time of a request goes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.progress import Progress

from bench.cli.command import Exit, check_outputs, event_loop_name, run
from bench.cli.progress import LiveProgress, live_progress
from bench.client import Target
from bench.components.chart import to_svg
from bench.components.exchange import traced_session
from bench.components.findings import Case, names
from bench.components.options import KINDS, OUTPUTS, parser
from bench.components.report import to_markdown, to_record
from bench.components.run import Load, Measuring, round_trip_ms
from bench.errors import BenchError
from bench.measuring.facts import ServerFacts, client_facts, read_server
from bench.prompts.workload import build_workload
from bench.reports.report import write_json
from bench.servers.served import served

_COUNTED: Final = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    return run(lambda: _components(args))


async def _components(args: argparse.Namespace) -> Exit:
    check_outputs(args, *OUTPUTS)
    console = Console(stderr=True, quiet=args.quiet)
    async with AsyncExitStack() as stack:
        base_url = args.base_url.rstrip("/")
        if args.serve is not None:
            timed = ["server.server_timing=true"]
            base_url = (await served(stack, args, console, settings=timed)).base_url
        session = await stack.enter_async_context(traced_session())
        server = await read_server(session, base_url, api_key=args.api_key, model=args.model)
        target = Target(base_url, args.endpoint, server.model, args.api_key)
        context: dict[str, Any] = {
            "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "server": server.shown(),
            "client": client_facts(event_loop_name()),
            "idle_round_trip_ms": await round_trip_ms(session, base_url),
        }
        load = Load(args.input_tokens, args.output_tokens, args.requests, args.timeout)
        _check_fits(load, server)
        measuring = await _measured(session, target, load, args, console)
    context |= {
        "interrupted": measuring.interrupted,
        "settings": {**asdict(load), "endpoint": args.endpoint, "seed": args.seed},
    }
    return _published(measuring, context, args)


async def _measured(
    session: aiohttp.ClientSession,
    target: Target,
    load: Load,
    args: argparse.Namespace,
    console: Console,
) -> Measuring:
    cases = [Case(kind, n) for kind in KINDS[args.answers] for n in args.concurrency]
    with console.status("writing prompts with the server's tokenizer"):
        workload = await build_workload(
            session, target, input_tokens=load.input_tokens, count=_COUNTED, seed=args.seed
        )
    # A tokenizer that has counted a text may remember it: those are left out.
    prompts = islice(workload.begin(0), _COUNTED, None)
    measuring = Measuring(session, target, load, prompts)
    await measuring.probe(cases[0])
    with live_progress(console) as bar:
        await measuring.all(cases, lambda case: _watched(bar, case))
    return measuring


def _check_fits(load: Load, server: ServerFacts) -> None:
    wanted, most = load.input_tokens + load.output_tokens, server.max_model_len
    if most is not None and wanted > most:
        raise BenchError(
            f"--input-tokens {load.input_tokens} and --output-tokens {load.output_tokens} don't "
            f"fit the {most} tokens of {server.model}'s context"
        )


def _watched(bar: Progress, case: Case) -> LiveProgress:
    for task in bar.task_ids:
        bar.remove_task(task)
    return LiveProgress(bar, f"{case.answers}, {case.concurrency} at once: ")


def _published(measuring: Measuring, context: dict[str, Any], args: argparse.Namespace) -> Exit:
    cells = measuring.cells
    tables = to_markdown(cells, context["idle_round_trip_ms"])
    print(tables, end="")
    if args.json is not None:
        write_json(args.json, to_record(cells, context))
    if args.markdown is not None:
        args.markdown.write_text(tables, encoding="utf-8")
    if args.svg is not None:
        title = f"Where the time of the median request goes: {context['server']['model']}"
        args.svg.write_text(to_svg(title, cells, names(cells)), encoding="utf-8")
    if measuring.interrupted:
        print("Interrupted: this is what had been measured until then.")
        return Exit.INTERRUPTED
    return Exit.FAILED_REQUESTS if any(cell.failures for cell in cells) else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
