"""`python -m bench.suite`: everything that is measured of the default model, in one report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.cli.command import Exit, command_parser, event_loop_name, run
from bench.errors import BenchError
from bench.reports.report import write_json
from bench.suite.parts import Part, all_parts, chosen
from bench.suite.report import machine_facts, read_suite, to_html, to_markdown, to_record
from bench.suite.running import Ran, run_part

_DEFAULT_DIRECTORY = Path("build/bench")

_DESCRIPTION = """\
Measure the embedded model on this machine, and write one report:

  sweep        throughput and latency at 1 to 64 requests in flight
  components   where a request's time goes
  variants     other settings of the server, and precisions, with their quality

Each is a command of its own, `python -m bench.NAME`, which starts the gateway and stops it. Into
the directory go every part's JSON, pictures, and log; index.html, one page with all of it and
nothing from elsewhere; and summary.md. A run that is already there becomes the previous one, and
its figures stand beside the new ones.
"""

_EXAMPLES = """\
examples:
  # everything; about as long as the run before, whose times the report shows
  python -m bench.suite -o build/bench

  # does it all work here? minutes, rough figures
  python -m bench.suite --quick -o build/quick

  # another model, on a GPU
  python -m bench.suite --config configs/t4-mistral-7b-awq.yaml --variants configs/variants/gpu.yaml

  # one part again, the others as they were
  python -m bench.suite -o build/bench --only sweep

exit codes:
  0    every part was measured, and every request succeeded
  1    a part failed, or a request did; the report shows which
  2    wrong usage
  130  stopped by Ctrl-C; the report holds what had been measured
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(words)
    args.command = shlex.join(["python", "-m", "bench.suite", *words])
    return run(lambda: _suite(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.suite", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=_DEFAULT_DIRECTORY,
        metavar="DIR",
        help=f"where the report goes; made if needed (default: {_DEFAULT_DIRECTORY})",
    )
    for name, default, text in (
        ("config", Path("configs/default.yaml"), "the gateway's configuration"),
        ("variants", Path("configs/variants/cpu.yaml"), "what bench.variants is to vary in it"),
    ):
        parser.add_argument(
            f"--{name}",
            type=Path,
            default=default,
            metavar="FILE",
            help=f"{text} (default: {default})",
        )
    parser.add_argument("--only", metavar="PART,…", help="sweep, components, variants")
    parser.add_argument("--quick", action="store_true", help="short and rough")
    return parser


async def _suite(args: argparse.Namespace) -> Exit:
    parts = all_parts(args.config, args.variants, quick=args.quick)
    wanted = chosen(parts, args.only)
    for option, file in (("--config", args.config), ("--variants", args.variants)):
        if not file.is_file():
            raise BenchError(f"{option} {file}: no such file")
    return await run_suite(parts, wanted, args.output, args.command)


async def run_suite(
    parts: Sequence[Part], wanted: Sequence[Part], directory: Path, command: str
) -> Exit:
    """Run the wanted of the parts and write the report of all of them into the directory.

    Parts that are not wanted appear as the last run in that directory left them. Raises
    BenchError: the directory can't be used.
    """
    _make(directory)
    last = read_suite(directory / "suite.json")
    ran = await _all(wanted, directory, _ran_before(last), Console(stderr=True))
    record = to_record(command, machine_facts(event_loop_name()), ran, last)
    _write(directory, parts, record, last)
    for part in wanted:
        print(f"{part.name}: {ran[part.name].state if part.name in ran else 'not run'}")
    print(f"report: {directory / 'index.html'}, {directory / 'summary.md'}")
    return _exit(ran)


def _write(
    directory: Path, parts: Sequence[Part], record: dict[str, Any], last: dict[str, Any] | None
) -> None:
    markdown = to_markdown(directory, parts, record, last)
    (directory / "summary.md").write_text(markdown, encoding="utf-8")
    page = to_html(directory, markdown, parts)
    (directory / "index.html").write_text(page, encoding="utf-8")
    write_json(directory / "suite.json", record)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"-o {directory}: {error.strerror}") from error


def _ran_before(last: dict[str, Any] | None) -> dict[str, Ran]:
    return {name: Ran(**one) for name, one in last["parts"].items()} if last else {}


async def _all(
    parts: Sequence[Part], directory: Path, before: dict[str, Ran], console: Console
) -> dict[str, Ran]:
    """Run the parts in turn; an interrupted one is the last."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}", markup=False),
    )
    ran: dict[str, Ran] = {}
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as bar:
        for number, part in enumerate(parts, 1):
            last = before.get(part.name)
            part.clear(directory, whole=last is None or last.whole)
            words = part.words(directory)
            console.print(
                f"{number} of {len(parts)}: {_shown(words)}", markup=False, soft_wrap=True
            )
            # How long the part took before is all that is known of how long it takes.
            task = bar.add_task(part.name, total=last.seconds if last else None, said="")

            def on_life(seconds: float, said: str, task: TaskID = task) -> None:
                bar.update(task, completed=seconds, said=said[:100])

            ran[part.name] = await run_part(
                words, _shown(words), part.file(directory, "log"), on_life
            )
            bar.remove_task(task)
            if ran[part.name].interrupted:
                break
    return ran


def _shown(words: Sequence[str]) -> str:
    return shlex.join(["python", *words])


def _exit(ran: dict[str, Ran]) -> Exit:
    if any(one.interrupted for one in ran.values()):
        return Exit.INTERRUPTED
    return Exit.FAILED_REQUESTS if any(one.exit_code for one in ran.values()) else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
