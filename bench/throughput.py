"""`python -m bench.throughput`: how many tokens a second an OpenAI-compatible server gives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.cli.command import (
    EXIT_CODES,
    Exit,
    add_load_options,
    check_outputs,
    command_parser,
    event_loop_name,
    run,
    settings_from,
)
from bench.cli.progress import LiveProgress, live_progress
from bench.client import Target, new_session
from bench.datasets import prepare
from bench.measuring.facts import client_facts, read_server
from bench.measuring.measure import Measurement, Settings, check_fits, measure
from bench.reports.report import any_failed, print_report, to_record, write_json
from bench.servers.served import DEFAULT_URL, add_server_options, served
from bench.servers.server import ChildServer
from bench.utilization.sampling import sampled

_DESCRIPTION = """\
Measure the token throughput and the latencies of an OpenAI-compatible server.

A closed loop unless there is a --rate: --concurrency requests are in flight at any time, each
answer makes room for the next. With --rate requests are sent when they are due, answered or not,
as those of many users are; what a client that waits hides, a queue that grows, shows then. Every
request has exactly the prompt tokens asked for, counted with the server's own tokenizer, and
exactly the completion tokens (ignore_eos). Tokens are counted from the `usage` the server states.

  TTFT   request sent to first text        ITL   between two chunks that carry text
  TPOT   (E2EL - TTFT) / (output - 1)      E2EL  request sent to end of the answer

With --rate TTFT and E2EL are also given from when the request was due. docs/throughput.md says
what each figure means.
"""

_EXAMPLES = f"""\
examples:
  # 32 requests at a time against a server on this machine
  python -m bench.throughput --concurrency 32

  # start a gateway with this configuration, measure it, stop it
  python -m bench.throughput --serve configs/default.yaml --json result.json

  # another server, another shape of request
  python -m bench.throughput --base-url https://llm.example.com/v1 --model my-model \\
      --concurrency 8 --requests 100 --input-tokens 1024 --output-tokens 256

  # time to first token of single requests
  python -m bench.throughput --concurrency 1 --requests 50 --output-tokens 2

  # 2.5 requests a second for two minutes; which share is answered in time?
  python -m bench.throughput --rate 2.5 --duration 120 --slo ttft=500 --slo tpot=80

  # bursts; a rate that grows; lengths that differ
  python -m bench.throughput --rate 2 --arrivals burst --burstiness 0.1
  python -m bench.throughput --rate 1 --arrivals ramp --rate-end 10 --duration 60
  python -m bench.throughput --input-tokens 64:256 --output-tokens normal:128:32

  # what the prefix cache is worth; conversations; recorded ones
  python -m bench.throughput --dataset shared-prefix --input-tokens 1024 --prefix-tokens 896
  python -m bench.throughput --dataset multi-turn --turns 5 --input-tokens 64 --output-tokens 64
  python -m bench.throughput --dataset sharegpt --dataset-path conversations.jsonl

  # yesterday's traffic at twice its speed
  gateway usage --rows --since 24h > rows.jsonl
  python -m bench.throughput --dataset replay --dataset-path rows.jsonl --replay-speed 2

  # two servers in turn
  python -m bench.throughput --base-url http://10.0.0.1:8000/v1 --base-url http://10.0.0.2:8000/v1

{EXIT_CODES}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _throughput(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.throughput", _DESCRIPTION, _EXAMPLES)
    add_server_options(parser, several=True)
    add_load_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full report to FILE")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


async def _throughput(args: argparse.Namespace) -> Exit:
    settings = settings_from(args)
    check_outputs(args, "json")
    console = Console(stderr=True, quiet=args.quiet)
    async with AsyncExitStack() as stack:
        base_urls = [url.rstrip("/") for url in args.base_url or [DEFAULT_URL]]
        servers: list[ChildServer | str] = [*base_urls]
        if args.serve is not None:
            child = await served(stack, args, console)
            base_urls, servers = [child.base_url], [child]
        async with sampled(servers) as sampling:
            found = await _measured(base_urls, settings, args, console)
    record = to_record(found, client_facts(event_loop_name()))
    begun = found.started_at.timestamp()
    record["server"]["utilization"] = sampling.summary(begun, begun + record["duration_s"])
    return _published(record, args)


async def _measured(
    base_urls: Sequence[str], settings: Settings, args: argparse.Namespace, console: Console
) -> Measurement:
    async with new_session() as session:
        servers = [
            await read_server(session, url, api_key=args.api_key, model=args.model)
            for url in base_urls
        ]
        for server in servers:
            check_fits(settings, server)
        target, *others = (
            Target(server.base_url, settings.endpoint, server.model, args.api_key)
            for server in servers
        )
        with console.status("writing prompts with the server's tokenizer"):
            workload = await prepare(session, target, settings, servers[0])
        with live_progress(console) as bar:
            progress = LiveProgress(bar)
            return await measure(
                session, target, settings, servers[0], workload, progress, others=others
            )


def _published(record: dict[str, Any], args: argparse.Namespace) -> Exit:
    print_report(record, Console(soft_wrap=True))
    if args.json is not None:
        write_json(args.json, record)
        print(f"full report: {args.json}")
    if record["interrupted"]:
        return Exit.INTERRUPTED
    return Exit.FAILED_REQUESTS if any_failed(record) else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
