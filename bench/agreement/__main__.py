"""`python -m bench.agreement`: other people's load tools beside `bench.throughput`, in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count, islice
from pathlib import Path

from rich.console import Console

from bench.agreement.judging import differs, judge
from bench.agreement.load import Load, PromptFields
from bench.agreement.options import agreement_parser
from bench.agreement.report import Agreement, to_markdown, to_record
from bench.agreement.rounds import run_rounds
from bench.agreement.tool import Tool
from bench.agreement.tools import OURS, missing, other_tools
from bench.cli.command import Exit, check_outputs, early_exit, event_loop_name, run
from bench.cli.progress import live_progress
from bench.client import Target, new_session
from bench.errors import BenchError
from bench.measuring.facts import ServerFacts, client_facts, read_server
from bench.prompts.workload import build_workload
from bench.reports.plot import to_svg
from bench.reports.report import write_json
from bench.servers.served import served


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = agreement_parser().parse_args(argv)
    return run(lambda: _agreement(args))


async def _agreement(args: argparse.Namespace) -> Exit:
    if args.requests < args.concurrency:
        raise BenchError(
            f"--requests {args.requests} is below --concurrency {args.concurrency}, which could "
            "then never be reached"
        )
    check_outputs(args, "json", "markdown", "svg")
    tools = chosen_tools(args.tools, args.tools_env)
    console = Console(stderr=True)
    async with AsyncExitStack() as stack:
        base_url = args.base_url.rstrip("/")
        if args.serve is not None:
            base_url = (await served(stack, args, console)).base_url
        found = await _measured(base_url, tools, args, console)
    return _published(found, args)


def chosen_tools(names: str | None, home: Path) -> list[Tool]:
    """Those of `--tools`, or all that are installed. Raises BenchError: unknown, or none."""
    known = other_tools(home)
    wanted = list(known) if names is None else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise BenchError(f"--tools {name}: there is {', '.join(known)}")
    absent = [name for name in wanted if known[name].version() is None]
    if absent and (names is not None or len(absent) == len(wanted)):
        raise BenchError(f"--tools {absent[0]}: {missing(absent[0], home)}")
    return [known[name] for name in dict.fromkeys(wanted) if name not in absent]


async def _measured(
    base_url: str, tools: Sequence[Tool], args: argparse.Namespace, console: Console
) -> Agreement:
    async with new_session() as session:
        server = await read_server(session, base_url, api_key=args.api_key, model=args.model)
        load = _load(base_url, server, args)
        target = Target(base_url, load.endpoint, load.model, load.api_key)
        needed = args.rounds * len(tools) * load.requests
        with console.status("writing prompts with the server's tokenizer"):
            workload = await build_workload(
                session, target, input_tokens=load.input_tokens, count=needed, seed=load.seed
            )
    prompts: list[PromptFields] = [one.fields for one in islice(workload.begin(0), needed)]
    begun = count()
    with live_progress(console) as bar:
        task = bar.add_task("", total=1 + 2 * args.rounds * len(tools), running="")
        pairs, stopped = await run_rounds(
            tools,
            OURS,
            load,
            prompts,
            rounds=args.rounds,
            timeout_s=args.timeout,
            on_run=lambda text: bar.update(task, completed=next(begun), description=text),
            on_pair=lambda pair: console.print(
                f"round {pair.round} of {args.rounds}, {pair}", markup=False, soft_wrap=True
            ),
        )
    return Agreement(
        load=load,
        tolerance=args.tolerance,
        server=server.shown(),
        client=client_facts(event_loop_name()),
        tools=[OURS, *tools],
        pairs=pairs,
        findings=judge(pairs, load.requests, args.tolerance),
        stopped=stopped,
    )


def _load(base_url: str, server: ServerFacts, args: argparse.Namespace) -> Load:
    return Load(
        base_url=base_url,
        endpoint=args.endpoint,
        model=server.model,
        input_tokens=args.input_tokens,
        output_tokens=args.output_tokens,
        concurrency=args.concurrency,
        requests=args.requests,
        seed=args.seed,
        api_key=args.api_key,
    )


def _published(found: Agreement, args: argparse.Namespace) -> Exit:
    markdown = to_markdown(found)
    print(markdown, end="")
    if args.json is not None:
        write_json(args.json, to_record(found))
    if args.markdown is not None:
        args.markdown.write_text(markdown, encoding="utf-8")
    if args.svg is not None:
        args.svg.write_text(to_svg(("tool", "bench.throughput"), found.findings), encoding="utf-8")
    if found.stopped is not None:
        return early_exit(found.stopped)
    failed = not all(pair.clean(found.load.requests) for pair in found.pairs)
    wrong = failed or any(differs(finding) for finding in found.findings)
    return Exit.FAILED_REQUESTS if wrong else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
