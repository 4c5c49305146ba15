"""The options that say which requests are sent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from bench.cli.quantities import at_least, lengths, not_negative, positive
from bench.measuring.arrivals import ArrivalKind
from bench.measuring.settings import DatasetKind


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which requests are sent."""
    _add_pace(parser.add_argument_group("load"))
    _add_shape(parser.add_argument_group("requests"))
    _add_dataset(parser.add_argument_group("dataset"))


def _add_pace(load: argparse._ArgumentGroup) -> None:
    load.add_argument(
        "--concurrency",
        type=at_least(1),
        metavar="N",
        help="requests in flight, always (default: 32); with --rate or a replay: the most that may "
        "be, others wait (default: no limit)",
    )
    load.add_argument(
        "--rate",
        type=positive,
        metavar="R",
        help="open loop: send so many requests a second, answered or not",
    )
    load.add_argument(
        "--arrivals",
        choices=get_args(ArrivalKind),
        help="with --rate: independent, evenly spaced, in bursts, or at a rate that changes "
        "(default: poisson)",
    )
    load.add_argument(
        "--burstiness",
        type=positive,
        metavar="B",
        help="with --arrivals burst: the shape of the gamma distribution of gaps; 1 is Poisson, "
        "less is burstier (default: 0.25)",
    )
    load.add_argument(
        "--rate-end",
        type=positive,
        metavar="R",
        help="with --arrivals ramp: the rate at the end",
    )
    amount = load.add_mutually_exclusive_group()
    amount.add_argument(
        "--requests",
        type=at_least(1),
        metavar="N",
        help="requests that are measured (default: 4 x concurrency; of a replay: all)",
    )
    amount.add_argument(
        "--duration",
        type=positive,
        metavar="S",
        help="begin requests for so many seconds instead; those in flight then may finish",
    )
    load.add_argument(
        "--warmup",
        type=at_least(0),
        metavar="N",
        help="requests sent before, not measured (default: the concurrency, or 32)",
    )
    load.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="NAME=MS",
        help="an objective: ttft=MS, tpot=MS or e2el=MS; repeatable. The report then says which "
        "share of requests meets all, and their rate, the goodput",
    )


def _add_shape(shape: argparse._ArgumentGroup) -> None:
    shape.add_argument(
        "--input-tokens",
        type=lengths,
        metavar="N|LOW:HIGH|normal:MEAN:SD",
        help="prompt tokens of each request, chat template included, exactly (default: 128)",
    )
    shape.add_argument(
        "--output-tokens",
        type=lengths,
        metavar="N|LOW:HIGH|normal:MEAN:SD",
        help="completion tokens of each request, exactly (default: 128, or as recorded)",
    )
    shape.add_argument(
        "--endpoint",
        choices=("chat", "completions"),
        default="chat",
        help="which API is measured (default: chat)",
    )
    shape.add_argument(
        "--no-stream",
        action="store_true",
        help="ask for whole answers; then only E2EL can be measured",
    )
    shape.add_argument(
        "--temperature",
        type=not_negative,
        default=0.0,
        metavar="T",
        help="sent with each request (default: 0)",
    )
    shape.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the random prompts and arrivals; a server that has seen the prompts may answer "
        "from its prefix cache, so use another for each run against the same server (default: 0)",
    )
    shape.add_argument(
        "--timeout",
        type=positive,
        default=600.0,
        metavar="S",
        help="seconds until a request counts as failed (default: 600)",
    )


def _add_dataset(dataset: argparse._ArgumentGroup) -> None:
    dataset.add_argument(
        "--dataset",
        choices=get_args(DatasetKind),
        default="random",
        help="random: prompts that share nothing. shared-prefix: a few beginnings in common. "
        "multi-turn: conversations that grow with the model's answers. sharegpt: recorded "
        "conversations. replay: times and lengths of a ledger (default: random)",
    )
    dataset.add_argument(
        "--dataset-path",
        type=Path,
        metavar="FILE",
        help="of sharegpt: JSON or JSONL with `conversations` or `messages`; of replay: what "
        "`gateway usage --rows` prints",
    )
    dataset.add_argument(
        "--prefix-tokens",
        type=at_least(1),
        metavar="N",
        help="of the input tokens, shared with others (default: half of them)",
    )
    dataset.add_argument(
        "--prefixes", type=at_least(1), metavar="N", help="different ones (default: 1)"
    )
    dataset.add_argument(
        "--turns", type=at_least(2), metavar="N", help="of each conversation (default: 4)"
    )
    dataset.add_argument(
        "--replay-speed",
        type=positive,
        metavar="X",
        help="2: twice as fast as recorded (default: 1)",
    )
