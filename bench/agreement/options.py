"""The command line of `python -m bench.agreement`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.agreement.tool import HOME
from bench.agreement.tools import NAMES
from bench.cli.command import at_least, command_parser, positive
from bench.servers.served import add_server_options

_DESCRIPTION = """\
Measure a server with other people's load tools and with bench.throughput, and compare the figures.

All tools keep --concurrency requests in flight and send the same: streamed, random prompts of
exactly --input-tokens, answers of exactly --output-tokens, no warm-up. Each run of a tool stands
beside one of bench.throughput, who is first alternates, and each metric is judged by the ratio
tool / ours of every round: the median with its bootstrap 95% interval. It agrees where the interval
lies within --tolerance; fewer than 5 rounds allow no conclusion. The tools:

  vllm      vllm bench serve, of the vLLM in this environment
  guidellm  GuideLLM          locust  Locust with bench/locustfile.py
  k6        the k6 on PATH with bench/k6/chat.js
"""

_EXAMPLES = """\
examples:
  # a gateway with the embedded model, every tool that is installed
  python -m bench.agreement --serve configs/default.yaml --json f.json --markdown f.md --svg f.svg

  # a running server, two tools
  python -m bench.agreement --base-url http://127.0.0.1:8000/v1 --tools vllm,guidellm

exit codes:
  0    every request succeeded, and no metric was found to differ
  1    a request failed, or a metric differs by more than the tolerance
  2    wrong usage, a tool can't be run, or the server can't be reached or started
  130  stopped by Ctrl-C; what had been measured is printed
"""


def agreement_parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.agreement", _DESCRIPTION, _EXAMPLES)
    add_server_options(parser)
    tools = parser.add_argument_group("tools")
    tools.add_argument(
        "--tools",
        metavar="NAME,...",
        help=f"of {', '.join(NAMES)} (default: those that are installed)",
    )
    tools.add_argument(
        "--tools-env",
        type=Path,
        default=HOME,
        metavar="DIR",
        help=f"the virtual environment of locust and guidellm (default: {HOME.name})",
    )
    tools.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="default: 5; every tool in each"
    )
    tools.add_argument(
        "--tolerance",
        type=positive,
        default=0.05,
        metavar="SHARE",
        help="how far from 1 a ratio may be (default: 0.05)",
    )
    tools.add_argument(
        "--timeout",
        type=positive,
        default=600.0,
        metavar="S",
        help="seconds until one run of a tool counts as hung (default: 600)",
    )
    _add_load(parser)
    for name in ("json", "markdown", "svg"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} to FILE")
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("load")
    counts = {
        "concurrency": (8, "requests in flight, always"),
        "requests": (64, "requests of each run"),
        "input-tokens": (128, "prompt tokens of each request, chat template included"),
        "output-tokens": (64, "completion tokens of each request, at least 2"),
    }
    for name, (default, meaning) in counts.items():
        least = 2 if name == "output-tokens" else 1
        load.add_argument(
            f"--{name}",
            type=at_least(least),
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default})",
        )
    load.add_argument(
        "--endpoint", choices=("chat", "completions"), default="chat", help="default: chat"
    )
    load.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the prompts; use another for each run against the same server (default: 0)",
    )
