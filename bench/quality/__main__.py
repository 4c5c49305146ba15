"""`python -m bench.quality`: how good the answers of an OpenAI-compatible server are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.cli.command import Exit, run
from bench.quality.measuring import Measuring
from bench.quality.options import check, names_model, parser
from bench.quality.report import compare, to_markdown
from bench.reports.report import write_json
from bench.servers.served import served


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    return run(lambda: quality(args))


async def quality(args: argparse.Namespace) -> Exit:
    """The command without its process. Raises BenchError."""
    check(args)
    console = Console(stderr=True, quiet=args.quiet)
    measuring = Measuring(args, console)
    async with AsyncExitStack() as stack:
        url = args.base_url.rstrip("/")
        if args.serve is not None:
            is_model = names_model(args.serve)
            server = await served(stack, args, console, settings=args.set, is_model=is_model)
            url = server.base_url
        record = await measuring.record(url)
    if measuring.baseline is not None:
        record["baseline"] = compare(record, measuring.baseline)
    return _published(record, args)


def _published(record: dict[str, Any], args: argparse.Namespace) -> Exit:
    markdown = to_markdown(record)
    print(markdown, end="")
    if args.json is not None:
        write_json(args.json, record)
    if args.markdown is not None:
        Path(args.markdown).write_text(markdown, encoding="utf-8")
    asked = record["answers"]
    return Exit.FAILED_REQUESTS if asked is not None and asked["failed"] else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
