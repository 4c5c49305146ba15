"""The options of a sweep, and what they come to at each load."""

from __future__ import annotations

import argparse
from math import ceil
from pathlib import Path

from bench.cli.command import (
    EXIT_CODES,
    add_load_options,
    at_least,
    command_parser,
    settings_from,
)
from bench.errors import BenchError
from bench.measuring.measure import Settings
from bench.servers.served import add_server_options
from bench.sweep.ranges import NOTATION, Load, concurrencies, rates

OUTPUTS = ("json", "csv", "markdown", "svg", "html")
_FEWEST_REQUESTS = 16
_SECONDS_AT_A_RATE = 30
_WARMUP_AT_A_RATE = 8

_DESCRIPTION = f"""\
Measure one server at a range of loads: so many requests in flight (--concurrency, a closed loop),
or so many that begin each second whatever became of those before (--rate, an open loop).

A range is {NOTATION}. Each load gets a warm-up and prompts of
its own. --requests and --duration are those of each load: by default 4 x the concurrency, and
{_FEWEST_REQUESTS} at least; at a rate, those of {_SECONDS_AT_A_RATE} s.

The loads are measured in rounds, up and then down, so that a machine that changes its speed
meanwhile doesn't look like a trend; figures are medians of the rounds, with their range.

The report names the knee, the load beyond which more stops paying (Kneedle, Satopaa et al. 2011,
on total tokens/s), or says that there is none in the range. With --slo it names the highest load
that meets the objectives; --search then narrows it down between the last load that met them and
the first that missed.
"""

_EXAMPLES = f"""\
examples:
  # start a gateway with this configuration; 1, 2, 4, ... 64 requests in flight; a page to read
  python -m bench.sweep --serve configs/default.yaml --concurrency 1:64:x2 --html sweep.html

  # the highest request rate at which 99 % of the answers begin in half a second
  python -m bench.sweep --rate 0.5:8:x1.5 --slo ttft=500 --attain 0.99 --search

  # another server, three rounds, everything written
  python -m bench.sweep --server 'other={{python}} -m other.server --port {{port}}' \\
      --concurrency 1,8,32 --rounds 3 --json s.json --csv s.csv --svg s.svg --html s.html

{EXIT_CODES}"""


def sweep_parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.sweep", _DESCRIPTION, _EXAMPLES)
    add_server_options(parser).where.add_argument(
        "--server",
        metavar="NAME=COMMAND",
        help="start this command; {port} and {python} are filled in",
    )
    add_load_options(parser)
    _add_range(parser)
    for name in OUTPUTS:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} to FILE")
    parser.add_argument(
        "--previous",
        type=Path,
        metavar="FILE",
        help="the --json of an earlier sweep, whose figures are shown beside these",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _add_range(parser: argparse.ArgumentParser) -> None:
    # Two options are ranges here; those of the load are for one measurement.
    parser.conflict_handler = "resolve"
    group = parser.add_argument_group("range")
    kind = group.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--concurrency", type=concurrencies, metavar="RANGE", help="requests in flight: 1:64:x2"
    )
    kind.add_argument(
        "--rate", type=rates, metavar="RANGE", help="requests that begin a second: 0.5:8:x1.5"
    )
    group.add_argument(
        "--rounds", type=at_least(1), default=1, metavar="N", help="over all loads (default: 1)"
    )
    group.add_argument(
        "--attain",
        type=_share,
        default=0.99,
        metavar="SHARE",
        help="with --slo: share of the requests sent that keeps the objectives (default: 0.99)",
    )
    group.add_argument(
        "--search",
        action="store_true",
        help="with --slo: bisect between the last load that met it and the first that missed",
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return value


def settings_at(args: argparse.Namespace, load: Load, number: int) -> Settings:
    """Those of one measurement; `number` others were made before it. Raises BenchError."""
    one = argparse.Namespace(**vars(args))
    one.seed = args.seed + number
    if load.kind == "concurrency":
        one.rate, one.concurrency = None, int(load.value)
        usual = max(_FEWEST_REQUESTS, 4 * one.concurrency)
        least = one.concurrency
    else:
        one.rate, one.concurrency = load.value, None
        usual = max(_FEWEST_REQUESTS, ceil(_SECONDS_AT_A_RATE * load.value))
        least = 1
        one.warmup = _WARMUP_AT_A_RATE if args.warmup is None else args.warmup
    if args.duration is None:
        one.requests = max(args.requests or usual, least)
    return settings_from(one)


def check_sweepable(args: argparse.Namespace) -> None:
    """Raises BenchError: what is asked for has no range of loads."""
    if args.dataset == "replay" and not args.rate:
        raise BenchError("--dataset replay keeps the times it recorded: sweep it with --rate")
    if args.arrivals == "ramp":
        raise BenchError("--arrivals ramp has no one rate to sweep; leave it to bench.throughput")
