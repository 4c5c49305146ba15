"""`python -m bench.sweep`: one server at many loads; where it stops paying, what meets an SLO."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.cli.command import Exit, check_outputs, redacted, run
from bench.cli.progress import live_progress
from bench.errors import BenchError
from bench.reports.report import any_failed, write_json
from bench.servers.contenders import Contender, Contestant, parse_contender, up
from bench.servers.subject import gateway_on
from bench.sweep.chart import to_svg
from bench.sweep.measuring import Meter, there_and_back
from bench.sweep.options import OUTPUTS, check_sweepable, settings_at, sweep_parser
from bench.sweep.previous import read_previous
from bench.sweep.progress import SweepProgress
from bench.sweep.ranges import Load
from bench.sweep.report import to_csv, to_html, to_markdown
from bench.sweep.results import Sweep, found, to_record
from bench.sweep.table import print_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = sweep_parser().parse_args(words)
    args.command = _shown(words)
    return run(lambda: _sweep(args))


async def _sweep(args: argparse.Namespace) -> Exit:
    check_sweepable(args)
    loads: tuple[Load, ...] = args.concurrency or args.rate
    wanted = [settings_at(args, load, 0) for load in loads]
    if args.search and not wanted[0].slo.given:
        raise BenchError("--search needs --slo: what is the highest load to meet?")
    check_outputs(args, *OUTPUTS)
    previous = read_previous(args.previous) if args.previous else None
    console = Console(stderr=True, quiet=args.quiet)
    async with AsyncExitStack() as stack:
        server = await _started(stack, args, console)
        with live_progress(console) as bar:
            meter = Meter(
                server,
                lambda load, number: settings_at(args, load, number),
                SweepProgress(bar, console),
                args.model,
                args.api_key,
            )
            await meter.run(there_and_back(loads, args.rounds))
            if args.search:
                await _search(meter, args)
    if not meter.measured:
        raise asyncio.CancelledError
    sweep = _found(meter, args)
    _publish(sweep, previous, args)
    return _exit(meter)


async def _started(stack: AsyncExitStack, args: argparse.Namespace, console: Console) -> Contestant:
    if args.serve is not None:
        contender = gateway_on(Path(args.serve), "gateway")
    elif args.server is not None:
        contender = parse_contender(args.server)
    else:
        contender = Contender("server", url=args.base_url.rstrip("/"))
    with console.status(f"starting {contender.name}") as status:
        server = await stack.enter_async_context(
            up(
                contender,
                os.environ,
                args.start_timeout,
                lambda waited: status.update(f"starting {contender.name}: {waited:.0f} s"),
            )
        )
    if server.child is not None:
        console.print(f"{server.name} was ready after {server.child.ready_after_s:.1f} s")
    return server


async def _search(meter: Meter, args: argparse.Namespace) -> None:
    """Bisect until the loads that meet and miss the objectives are neighbours."""
    while meter.stopped is None:
        sweep = _found(meter, args)
        load = sweep.objectives.bracket.middle() if sweep.objectives else None
        if load is None:
            return
        await meter.run([load] * args.rounds)


def _found(meter: Meter, args: argparse.Namespace) -> Sweep:
    slo = settings_at(args, meter.measured[0][0], 0).slo if meter.measured else None
    return found(
        "concurrency" if args.concurrency else "rate",
        args.command,
        meter.measured,
        slo=str(slo) if slo is not None and slo.given else None,
        attain=args.attain,
        stopped=meter.stopped,
    )


def _publish(sweep: Sweep, previous: dict[str, Any] | None, args: argparse.Namespace) -> None:
    picture = args.svg.name if args.svg else "sweep.svg"
    markdown = to_markdown(sweep, picture, previous)
    texts = {
        "csv": to_csv(sweep),
        "markdown": markdown,
        "svg": to_svg(sweep.title, sweep.points, sweep.knee),
        "html": to_html(sweep, previous),
    }
    for name, text in texts.items():
        path: Path | None = getattr(args, name)
        if path is not None:
            path.write_text(text, encoding="utf-8")
    if args.json is not None:
        write_json(args.json, to_record(sweep))
    print_sweep(sweep, Console(soft_wrap=True))


def _exit(meter: Meter) -> Exit:
    if meter.stopped == "interrupted":
        return Exit.INTERRUPTED
    if meter.stopped is not None:
        Console(stderr=True, soft_wrap=True).print(f"error: {meter.stopped}", markup=False)
        return Exit.UNUSABLE
    failed = any(any_failed(record) for _, record in meter.measured)
    return Exit.FAILED_REQUESTS if failed else Exit.OK


def _shown(words: Sequence[str]) -> str:
    """The command as others may read it."""
    return shlex.join(["python", "-m", "bench.sweep", *redacted(words)])


if __name__ == "__main__":
    sys.exit(main())
