"""`python -m bench.simulate`: many short lives of the gateway on a virtual clock, all of them
looked at closely."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from bench.cli.command import Exit, at_least, check_outputs, command_parser, early_exit
from bench.cli.progress import live_progress
from bench.errors import BenchError
from bench.reports.report import write_json
from bench.simulate import figures
from bench.simulate.scenario import random_scenario
from bench.simulate.tally import Tally, simulate
from bench.simulate.world import World

SCHEMA_VERSION = 1
_CHUNK = 25
_SHOWN = 10

_DESCRIPTION = """\
Simulate the gateway's admission and limits, and what a request holds and has written down of it,
the real code of all, over a model of an engine.

Each seed is a world of its own: tenants of different weights and classes with limits of all
kinds, floods and trickles of requests, clients that hang up, deadlines, an engine of random size
and speed that may die and come back, or not. A few hundred engine steps, on a virtual clock.
After and during each run these are checked:

lost           every request ends exactly once, nobody waits for ever
over-admitted  no limit or budget of a key or team is exceeded at any time
unfair         two tenants that both wait are served alike by weight, within the bound of the
               Virtual Token Counter (arXiv 2401.00588)
starved        nobody who waits is left behind anybody
overtaken      within a tenant and class, who asked first is started first
over-filled    the engine never holds more sequences than its seats, the margin or the spare ones,
               nor of one tenant more than the cap
idle           nobody waits while the engine has nothing to do
mischarged     a tenant's counter is its uncached prompt tokens and twice its completion tokens
misrecorded    each request is one row of the ledger; the sums of all, and their cost, are the
               engine's counters
not released   all permits come back
not refunded   what a reservation didn't use of a budget, tokens or money, comes back

A seed that fails is named, and fails again: --seed N --trace shows what happened in it.
"""

_EXAMPLES = """\
examples:
  python -m bench.simulate --seeds 10000
  python -m bench.simulate --seed 4711 --trace
  python -m bench.simulate --seeds 200 --figures docs/benchmarks

exit codes:
  0    everything held in every seed
  1    something didn't; the seeds are named
  2    wrong usage
  130  stopped by Ctrl-C; what had been simulated is told
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        _prepare(args)
    except BenchError as error:
        return early_exit(str(error))
    console = Console(stderr=True)
    if args.seed is not None:
        return _one(args)
    tally, interrupted = Tally(), False
    start = perf_counter()
    try:
        _many(args, console, tally)
    except KeyboardInterrupt:
        interrupted = True
    _tell(tally, perf_counter() - start)
    record = {"schema": "bench.simulate", "schema_version": SCHEMA_VERSION, **_record(tally)}
    if args.figures is not None and not interrupted:
        record["figures"] = _draw(args.figures, console)
    if args.json is not None:
        write_json(args.json, record)
    if interrupted:
        return Exit.INTERRUPTED
    return Exit.FAILED_REQUESTS if tally.broken else Exit.OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.simulate", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--seeds", type=at_least(1), default=1000, metavar="N", help="how many (default: 1000)"
    )
    parser.add_argument("--first", type=int, default=0, metavar="N", help="from here (default: 0)")
    parser.add_argument("--seed", type=int, metavar="N", help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happens")
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="processes (default: one for each core)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the sums to FILE")
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="simulate the loads of bench.tenants, too, fair and first come first served, and draw "
        "them to DIR/simulated-fairness.svg",
    )
    return parser


def _prepare(args: argparse.Namespace) -> None:
    """Raises BenchError: what is to be written couldn't be."""
    directory: Path | None = args.figures
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchError(f"--figures {directory}: {error.strerror}") from error
        if not os.access(directory, os.W_OK):
            raise BenchError(f"--figures {directory}: can't be written to")
    check_outputs(args, "json")


def _one(args: argparse.Namespace) -> int:
    run = World(random_scenario(args.seed), trace=print if args.trace else None).play()
    told = ", ".join(f"{count} {name}" for name, count in sorted(run.outcomes.items()))
    print(f"seed {args.seed}: {run.seconds:.1f} virtual seconds, {told}")
    for violation in run.violations:
        print(f"  {violation}")
    return Exit.FAILED_REQUESTS if run.violations else Exit.OK


def _many(args: argparse.Namespace, console: Console, tally: Tally) -> None:
    """Adds to `tally` as seeds are done; ends early where many fail."""
    last = args.first + args.seeds
    chunks = iter(
        [range(start, min(start + _CHUNK, last)) for start in range(args.first, last, _CHUNK)]
    )
    with live_progress(console) as bar, _workers(args.jobs) as pool:
        task = bar.add_task("seeds", total=args.seeds, running="")
        running: set[Future[Tally]] = set()
        while True:
            for chunk in chunks:
                running.add(pool.submit(simulate, chunk))
                if len(running) > args.jobs:
                    break
            if not running or len(tally.broken) >= _SHOWN:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                tally.add(one.result())
            failed = f" [red]{len(tally.broken)} failed[/]" if tally.broken else ""
            bar.update(task, completed=tally.seeds, running=f"{tally.requests:,} requests{failed}")


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("forkserver"))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tell(tally: Tally, wall_s: float) -> None:
    print(
        f"{tally.seeds:,} seeds: {tally.requests:,} requests, {tally.tokens:,} tokens, "
        f"{tally.virtual_s / 3600:.1f} virtual hours; {tally.cpu_s:.0f} CPU seconds, "
        f"{wall_s:.0f} s"
    )
    for name, count in tally.outcomes.most_common():
        print(f"  {count:10,}  {name}")
    print(f"largest service gap: {tally.largest_gap:.2f} of the bound")
    for seed, violation in sorted(tally.broken.items())[:_SHOWN]:
        print(f"seed {seed} FAILED {violation}")
    if tally.broken:
        seed = min(tally.broken)
        print(f"to see it: python -m bench.simulate --seed {seed} --trace")


def _record(tally: Tally) -> dict[str, Any]:
    # A Counter can't be copied as a dataclass's field would be.
    fields = {name: getattr(tally, name) for name in Tally.__slots__}
    return {**fields, "outcomes": dict(tally.outcomes)}


def _draw(directory: Path, console: Console) -> dict[str, Any]:
    with console.status("simulating the loads of bench.tenants"):
        found = figures.measure(seed=0)
    print("\n" + figures.to_markdown(found), end="")
    (directory / "simulated-fairness.svg").write_text(figures.svg(found), encoding="utf-8")
    return figures.to_record(found)


if __name__ == "__main__":
    # A trace is often read only in part. Not in `main`: whoever calls that keeps his own ways.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
