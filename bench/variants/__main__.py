"""`python -m bench.variants`: one model under several configurations of its server, as a table."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli.command import (
    Exit,
    add_key_option,
    add_load_options,
    at_least,
    check_outputs,
    command_parser,
    event_loop_name,
    positive,
    run,
)
from bench.errors import BenchError
from bench.measuring.facts import client_facts
from bench.reports.report import write_json
from bench.variants.chart import to_svg
from bench.variants.figures import drift, to_entry
from bench.variants.measuring import GATEWAY, Means
from bench.variants.rounds import Findings, all_measured
from bench.variants.table import to_markdown
from bench.variants.variant import Variant, chosen, read_variants, shared_out

_SCHEMA = {"schema": "bench.variants", "schema_version": 1}

_DESCRIPTION = """\
Measure one configuration of the gateway in several variants: what each setting costs and gives.

A variant changes keys of the configuration (batch limits, threads, precision, quantization), or
serves with several servers beside each other. Each one is started, warmed up, measured with
`bench.throughput`, and stopped; with several rounds they take turns. The first variant is the
baseline: it is measured again at the end, which shows how far the machine itself has drifted.

  start       from the command to ready, compile caches as they are found
  memory      the most that the server's processes had resident together
  cores       CPU seconds a second of these processes
  perplexity  by `bench.quality --perplexity`, with --quality
"""

_EXAMPLES = """\
examples:
  # every variant of the list, once, with perplexity
  python -m bench.variants --config configs/default.yaml --quality

  # two of them against the baseline, three rounds in turns
  python -m bench.variants --only eager,threads-1 --rounds 3

  # beside the figures of the last time
  python -m bench.variants --json new.json --previous old.json --markdown new.md --svg new.svg

  # checkpoints made before, another load: options of bench.throughput are passed on
  gateway quantize MODEL --method awq -o quantized/awq
  python -m bench.variants --checkpoints quantized --concurrency 8 --output-tokens 256

A list of variants is YAML, the baseline first:

  - name: as-configured
  - name: awq
    about: 4-bit weights
    set: {engine.model: "{checkpoints}/awq", engine.dtype: float16}
  - name: two-servers
    replicas: 2

exit codes:
  0    every variant was measured, or its checkpoint is not there; every request succeeded
  1    a variant or its quality could not be measured, or a request failed; the report says why
  2    wrong usage, or the baseline can't be measured
  130  stopped by Ctrl-C; what had been measured is printed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    own, whole = _parser(), _parser()
    add_load_options(whole)
    args = whole.parse_args(argv)
    # What is not ours is passed on as it was written: only bench.throughput reads it.
    args.load = own.parse_known_args(argv)[1]
    return run(lambda: _variants(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.variants", _DESCRIPTION, _EXAMPLES)
    which = parser.add_argument_group("variants")
    for option, default, text in (
        ("--config", Path("configs/default.yaml"), "the configuration that is varied"),
        ("--variants", Path("configs/variants/cpu.yaml"), "the list of variants"),
    ):
        which.add_argument(
            option, type=Path, default=default, metavar="FILE", help=f"{text} (default: {default})"
        )
    which.add_argument("--only", metavar="NAME,…", help="these, and the baseline")
    which.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("quantized"),
        metavar="DIR",
        help="where the quantized checkpoints are, each in a directory of its own "
        "(default: quantized)",
    )
    which.add_argument(
        "--rounds", type=at_least(1), default=1, metavar="N", help="all in each (default: 1)"
    )
    which.add_argument(
        "--quality", action="store_true", help="also the perplexity of each, in the first round"
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--server",
        default=GATEWAY,
        metavar="COMMAND",
        help="what is started, with --config, --host, --port and --set (default: gateway serve)",
    )
    add_key_option(server)
    server.add_argument(
        "--start-timeout",
        type=positive,
        default=900.0,
        metavar="S",
        help="seconds to wait until a server is ready (default: 900)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--previous", type=Path, metavar="FILE", help="the JSON of a run to show beside this one"
    )
    for name in ("json", "markdown", "svg"):
        output.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} to FILE")
    return parser


async def _variants(args: argparse.Namespace) -> Exit:
    wanted = chosen(read_variants(args.variants), args.only)
    variants = [shared_out(variant, args.config) for variant in wanted]
    previous = None if args.previous is None else _previous(args.previous)
    check_outputs(args, "json", "markdown", "svg")
    means = Means(
        args.config, args.checkpoints, args.load, args.server, args.api_key, args.start_timeout
    )
    found = await all_measured(variants, means, rounds=args.rounds, quality=args.quality)
    if not any(found.runs.values()):
        raise asyncio.CancelledError
    return _published(variants, found, previous, args)


def _previous(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"--previous {file}: can't be read: {error}") from error
    if not isinstance(record, dict) or not _SCHEMA.items() <= record.items():
        raise BenchError(f"--previous {file}: not what --json of bench.variants writes")
    return record


def _published(
    variants: Sequence[Variant],
    found: Findings,
    previous: dict[str, Any] | None,
    args: argparse.Namespace,
) -> Exit:
    baseline = found.runs[variants[0].name]
    record = {
        **_SCHEMA,
        "started_at": found.started_at.isoformat(timespec="seconds"),
        "interrupted": found.interrupted,
        "config": str(args.config),
        "load": list(args.load),
        "rounds": args.rounds,
        "client": client_facts(event_loop_name()),
        "variants": [to_entry(one, found.runs[one.name], baseline) for one in variants],
        "closing": None if found.closing is None else found.closing.to_record(),
        "drift": drift(baseline, found.closing),
    }
    markdown = to_markdown(record, previous)
    print(markdown, end="")
    if args.json is not None:
        write_json(args.json, record)
    if args.markdown is not None:
        args.markdown.write_text(markdown, encoding="utf-8")
    if args.svg is not None:
        args.svg.write_text(to_svg(record, previous), encoding="utf-8")
    if found.interrupted:
        return Exit.INTERRUPTED
    return Exit.FAILED_REQUESTS if found.anything_failed else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
