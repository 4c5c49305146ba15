"""`python -m bench.exact`: every answer is the same however it is asked for, and by whom."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import Progress

from bench.cli.command import (
    Exit,
    add_start_timeout,
    at_least,
    check_outputs,
    command_parser,
    run,
)
from bench.cli.progress import live_progress
from bench.errors import BenchError
from bench.exact.answers import Question, ask, batches, expected, foretold
from bench.exact.compare import Difference, Missing, differences
from bench.exact.coverage import Witnessed, coverage
from bench.exact.plan import Case, plan
from bench.exact.report import Comparison, bodies_of, print_report, to_record
from bench.load import Answer
from bench.reports.report import write_json
from bench.servers.contenders import Contender, Contestant, up
from bench.tiny.servers import NAME, SEEDED, TinyServers, tiny_servers

_WALK = "foretold"

_DESCRIPTION = """\
Ask servers thousands of requests drawn from a seed and compare every answer: text, finish
reasons and token counts of each stream with those of the answer as a whole, with those of the
other server, and, where the tiny model's greedy walk tells them, with what they have to be.

The requests vary in all that has to do with text: prompts of words, emoji and token ids, limits,
temperatures with seeds, several choices, stop strings that span tokens and characters, stop
tokens, min_tokens, ignore_eos. The servers run one after the other, on a model made for it.
"""

_EXAMPLES = """\
examples:
  # the gateway against vLLM's own server
  python -m bench.exact

  # one server alone: streams against whole answers and the walk
  python -m bench.exact --requests 500 \\
      --server me='{python} -m gateway serve --model {model} --set model_name=tiny --port {port}'

  # two that run already, on a model made as bench.exact makes it for each run:
  #   python -c "from pathlib import Path; from bench.tiny.model import make; make(Path('DIR'))"
  python -m bench.exact --server a=http://127.0.0.1:8000/v1 --server b=http://127.0.0.1:8001/v1

exit codes:
  0    no answer differed
  1    at least one answer was missing or differed; the report says which
  2    wrong usage, or a server can't be reached or started
  130  stopped by Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _exact(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.exact", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="NAME=URL|COMMAND",
        help="at most two; {port}, {python} and {model} are filled in; the model has to be served "
        f"as {NAME!r} (default: the gateway and vLLM's server)",
    )
    parser.add_argument(
        "--requests", type=at_least(1), default=10_000, metavar="N", help="default: 10000"
    )
    parser.add_argument(
        "--concurrency", type=at_least(1), default=256, metavar="N", help="default: 256"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the plan (default: 0)")
    parser.add_argument(
        "--other-streamed",
        type=_share,
        default=0.25,
        metavar="SHARE",
        help="of the requests that the second server has to stream as well (default: 0.25)",
    )
    parser.add_argument(
        "--max-num-seqs",
        type=at_least(1),
        default=256,
        metavar="N",
        help="of both engines, where they are started by default (default: 256)",
    )
    add_start_timeout(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return value


async def _exact(args: argparse.Namespace) -> Exit:
    check_outputs(args, "json")
    if len(args.server) > 2:
        raise BenchError(f"give --server at most twice; there are {len(args.server)}")
    names = [text.partition("=")[0] for text in args.server]
    if len(set(names)) < len(names):
        raise BenchError(f"both servers are called {names[0]}")
    console = Console(stderr=True)
    with TemporaryDirectory(prefix="bench-exact-") as temporary:
        engine = {**SEEDED, "max_num_seqs": args.max_num_seqs}
        servers = tiny_servers(Path(temporary), args.server, engine=engine, server={})
        cases = plan(servers.model, NAME, args.requests, args.seed)
        answers: dict[str, dict[int, Answer | Missing]] = {}
        for place, contender in enumerate(servers.contenders):
            questions = _questions(cases, args, second=place == 1)
            answers |= await _answers(contender, questions, servers, args, console)
    found = _compared(cases, answers, servers, args.seed)
    print_report(found, Console(soft_wrap=True))
    if args.json is not None:
        write_json(args.json, to_record(found))
    return Exit.FAILED_REQUESTS if found.differences else Exit.OK


def _questions(cases: Sequence[Case], args: argparse.Namespace, *, second: bool) -> list[Question]:
    """What a server is asked, in an order that mixes streams and whole answers."""
    rng = random.Random(args.seed)
    share = args.other_streamed if second else 1.0
    asked = [case for case in cases if case.vllm_takes_it or not second]
    found = [Question(case, stream=False) for case in asked]
    found += [Question(case, stream=True) for case in asked if rng.random() < share]
    rng.shuffle(found)
    return found


async def _answers(
    contender: Contender,
    questions: Sequence[Question],
    servers: TinyServers,
    args: argparse.Namespace,
    console: Console,
) -> dict[str, dict[int, Answer | Missing]]:
    """The answers by mode and number of the request, from a server that is up for as long."""
    found = {
        _mode(contender.name, stream): dict[int, Answer | Missing]() for stream in (True, False)
    }
    with console.status(f"starting {contender.name}") as status:
        async with up(
            contender,
            {**servers.environment, **os.environ},
            args.start_timeout,
            lambda waited: status.update(f"starting {contender.name}: {waited:.0f} s"),
        ) as server:
            status.stop()
            with live_progress(console) as bar:
                await _ask_all(server, questions, args.concurrency, bar, found)
    return found


async def _ask_all(
    server: Contestant,
    questions: Sequence[Question],
    concurrency: int,
    bar: Progress,
    found: dict[str, dict[int, Answer | Missing]],
) -> None:
    task = bar.add_task(server.name, total=len(questions), running="")
    finished = 0

    def on_progress(of_batch: int) -> None:
        bar.update(task, completed=finished + of_batch)

    for batch in batches(questions):
        answers = await ask(
            server.base_url, batch, concurrency=concurrency, on_progress=on_progress
        )
        finished += len(batch)
        for question, answer in zip(batch, answers, strict=True):
            found[_mode(server.name, question.stream)][question.case.number] = answer


def _mode(name: str, stream: bool) -> str:
    return f"{name} streamed" if stream else f"{name} whole"


def _compared(
    cases: Sequence[Case],
    answers: Mapping[str, Mapping[int, Answer | Missing]],
    servers: TinyServers,
    seed: int,
) -> Comparison:
    pairs = _pairs([one.name for one in servers.contenders])
    compared = dict.fromkeys((" / ".join(pair) for pair in pairs), 0)
    found: list[Difference] = []
    witnessed: list[Witnessed] = []
    for case in cases:
        known = foretold(servers.model, case)
        of_case = {mode: one[case.number] for mode, one in answers.items() if case.number in one}
        first = next(iter(of_case.values()))
        if isinstance(first, Answer):
            witnessed.append(Witnessed(case, first, known))
        if known is not None:
            of_case[_WALK] = expected(case, known)
        found += differences(case.number, of_case, pairs)
        for pair in pairs:
            compared[" / ".join(pair)] += all(
                isinstance(of_case.get(name), Answer) for name in pair
            )
    given = {mode: len(one) for mode, one in answers.items()}
    streams = sum(count for mode, count in given.items() if mode.endswith(" streamed"))
    return Comparison(
        seed=seed,
        servers={one.name: one.shown() for one in servers.contenders},
        coverage=coverage(witnessed, sum(given.values()), streams),
        pairs=compared,
        differences=found,
        bodies=bodies_of(found, cases),
    )


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Whose answers are compared with whose."""
    modes = [(_mode(name, True), _mode(name, False)) for name in names]
    across = list(zip(*modes, strict=True)) if len(modes) == 2 else []
    return [*modes, *across, *((mode, _WALK) for both in modes for mode in both)]


if __name__ == "__main__":
    sys.exit(main())
