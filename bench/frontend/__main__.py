"""`python -m bench.frontend`: CPU of a serving process per streamed token and per request."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.cli.command import (
    EXIT_CODES,
    Exit,
    add_start_timeout,
    at_least,
    check_outputs,
    command_parser,
    positive,
    redacted,
    run,
)
from bench.cli.progress import live_progress
from bench.frontend.plot import to_svg
from bench.frontend.report import Findings, Round, to_markdown, to_record
from bench.frontend.run import Figures, Served, load, measure
from bench.frontend.servers import all_up, chosen_servers, parse_peer
from bench.frontend.work import Amount, Work, Writer
from bench.load import without_key
from bench.measuring.facts import ServerFacts, client_facts
from bench.reports.report import write_json
from bench.servers.contenders import Contender
from bench.tiny.servers import NAME, TinyServers, tiny_servers

_WARMUP_TOKENS, _WARMUP_CLIENTS, _WARMUP_TURNS = 32, 256, 2
_FEWEST_OUTPUT_TOKENS = 4

_DESCRIPTION = """\
Measure what a server's front end costs: microseconds of CPU of the serving process, the engine's
child processes left out, per streamed token and per request, and the latencies that go with it.

The model is so small that the front end is what is measured, and so predictable that every answer
is verified: one wrong text, token count or finish reason fails the benchmark. In each round, at
each concurrency, each server gets the same three runs: answers of one token, streamed and not,
give the CPU per request; long streamed answers of mixed lengths, less their requests, give the
CPU per further token. Servers take turns, in the opposite order every other round; ratios are
those to the first server, round by round.
"""

_EXAMPLES = f"""\
examples:
  # the gateway against vLLM's own server, same engine settings and environment
  python -m bench.frontend --plot frontend.svg --json frontend.json

  # two versions of one; {{port}}, {{model}} and {{python}} are filled in
  python -m bench.frontend --server gateway \\
      --server old='/old/python -m gateway serve --model {{model}} --set model_name={NAME} \\
          --port {{port}}'

  # beside one that serves the model already, from a directory made by
  #   python -c "from pathlib import Path; from bench.tiny.model import make; make(Path('DIR'))"
  python -m bench.frontend --peer mine=http://127.0.0.1:9000/v1,4711

{EXIT_CODES}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _frontend(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.frontend", _DESCRIPTION, _EXAMPLES)
    servers = parser.add_argument_group("servers")
    servers.add_argument(
        "--server",
        action="append",
        metavar="NAME[=COMMAND]",
        help="gateway, vllm, or a command that serves {model} as "
        f"{NAME!r} on {{port}}; repeatable, the first is what the others are compared to "
        "(default: gateway and vllm)",
    )
    servers.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=URL,PID",
        help="one more that runs already, and the process whose CPU counts; the URL may have a key "
        "before its host, http://KEY@127.0.0.1:9000/v1; repeatable",
    )
    servers.add_argument(
        "--max-num-seqs",
        type=at_least(1),
        default=256,
        metavar="N",
        help="sequences decoded together by gateway and vllm (default: 256)",
    )
    add_start_timeout(servers)
    _add_load(parser.add_argument_group("load"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the medians as SVG")
    return parser


def _add_load(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--concurrency",
        type=at_least(1),
        nargs="+",
        default=[1, 32, 256, 1000],
        metavar="N",
        help="requests in flight, always (default: 1 32 256 1000)",
    )
    group.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="default: 5; all in each"
    )
    group.add_argument(
        "--output-tokens",
        type=at_least(_FEWEST_OUTPUT_TOKENS),
        default=128,
        metavar="N",
        help="long answers have N / 2 to N * 3 / 2 tokens (default: 128)",
    )
    group.add_argument(
        "--scale",
        type=positive,
        default=1.0,
        metavar="X",
        help="times as many requests in each run, which by default lasts a few seconds "
        "(default: 1)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of prompts and lengths (default: 0)"
    )


async def _frontend(args: argparse.Namespace) -> Exit:
    check_outputs(args, "json", "plot")
    console = Console(stderr=True)
    peers = [parse_peer(text) for text in args.peer]
    with TemporaryDirectory(prefix="bench-frontend-") as directory:
        engine = {"max_num_seqs": args.max_num_seqs}
        tiny = tiny_servers(Path(directory), [], engine=engine, server={})
        contenders = chosen_servers(args.server or ["gateway", "vllm"], tiny)
        async with all_up(
            contenders, peers, tiny.environment, args.start_timeout, console
        ) as found:
            servers = [server for server, _ in found]
            with live_progress(console) as bar:
                measuring = _Measuring(tiny, servers, args, bar)
                interrupted = await measuring.all_rounds()
    names = tuple(server.name for server in servers)
    findings = Findings(names, tuple(args.concurrency), tuple(measuring.rounds))
    print(to_markdown(findings), end="")
    for fault in measuring.warmup_faults:
        print(fault)
    if args.json is not None:
        context = _context(found, contenders, tiny.environment, args)
        write_json(args.json, to_record(findings, {**context, "interrupted": interrupted}))
    if args.plot is not None:
        args.plot.write_text(to_svg(findings), encoding="utf-8")
    if interrupted:
        return Exit.INTERRUPTED
    wrong = findings.faulty or measuring.warmup_faults
    return Exit.FAILED_REQUESTS if wrong else Exit.OK


class _Measuring:
    """The rounds so far, and the bar that shows how they go on."""

    def __init__(
        self,
        tiny: TinyServers,
        servers: Sequence[Served],
        args: argparse.Namespace,
        bar: Progress,
    ) -> None:
        self.rounds: list[Round] = []
        self.warmup_faults: list[str] = []
        self._servers = servers
        self._args = args
        self._bar = bar
        self._amount = Amount(args.output_tokens, args.scale)
        self._writer = Writer(tiny.model, NAME, args.seed)
        self._task = bar.add_task("warm-up", total=None, running="")
        self._done = 0.0
        self._total = args.rounds * len(servers) * sum(map(self._amount.tokens, args.concurrency))

    async def all_rounds(self) -> bool:
        """Measure; whether it was interrupted. Raises BenchError: a server has ended."""
        try:
            for server in self._servers:
                await self._warm_up(server)
            for number in range(1, self._args.rounds + 1):
                self.rounds.append(await self._round(number))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return True
        return False

    async def _warm_up(self, server: Served) -> None:
        clients = min(_WARMUP_CLIENTS, max(self._args.concurrency))
        requests = self._writer.long(_WARMUP_TURNS * clients, _WARMUP_TOKENS)
        warmup = await load(server, requests, clients, lambda _tokens: None)
        self.warmup_faults += [f"warm-up, {server.name}: {fault}" for fault in warmup.faults()]

    async def _round(self, number: int) -> Round:
        order = self._servers if number % 2 else self._servers[::-1]
        figures: dict[int, dict[str, Figures]] = {}
        for concurrency in self._args.concurrency:
            work = self._writer.work(concurrency, self._amount)
            figures[concurrency] = {}
            for server in order:
                shown = self._shown(f"round {number} of {self._args.rounds}, {server.name}", work)
                figures[concurrency][server.name] = await measure(server, work, shown)
                self._done += work.tokens
        return Round(number, tuple(server.name for server in order), figures)

    def _shown(self, what: str, work: Work) -> Callable[[float], None]:
        """Draws how far a measurement is, as part of all of them."""
        done = self._done
        running = f"{work.concurrency:,} streams"
        self._bar.update(self._task, description=what, total=self._total, running=running)
        return lambda tokens: self._bar.update(self._task, completed=done + tokens)


def _context(
    found: Sequence[tuple[Served, ServerFacts]],
    contenders: Sequence[Contender],
    environment: Mapping[str, str],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """What was measured, how, and on what machine."""
    commands = {one.name: redacted(one.command) for one in contenders}
    settings = ("concurrency", "rounds", "output_tokens", "scale", "seed", "max_num_seqs")
    return {
        "machine": client_facts("epoll"),
        "settings": {name: getattr(args, name) for name in settings},
        "environment": {name: os.environ.get(name, value) for name, value in environment.items()},
        "servers": {
            server.name: {
                "command": commands.get(server.name),
                "base_url": without_key(server.base_url),
                "header": facts.header,
                "version": facts.version,
                "engine": facts.engine,
            }
            for server, facts in found
        },
    }


if __name__ == "__main__":
    sys.exit(main())
