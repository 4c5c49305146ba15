"""The command's options."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.command import at_least, check_outputs, command_parser, positive
from bench.errors import BenchError
from bench.quality.questions import SAMPLE
from bench.quality.shipped import check_shots
from bench.servers.served import add_server_options

_DESCRIPTION = """\
Measure how good the answers of an OpenAI-compatible server are, over its API alone.

  --perplexity   how surprised the model is by the tokens of a text; lower is better. The text is
                 docstrings of Python's standard library, of the half of the modules that no
                 calibration uses, or --text FILE. The server needs /tokenize, and `echo` with
                 `logprobs` in /v1/completions.
  --answers      F1 and exact match on questions whose answers are known, as SQuAD defines them
  --tasks        scores of tasks of lm-evaluation-harness, which is installed on first use

Every figure comes with a 95% interval. With --baseline, an earlier --json, each is compared with
the same figure there, window by window and question by question; a difference that may be noise is
called no conclusion, and figures of different texts or questions are not compared at all.
"""

_EXAMPLES = """\
examples:
  # perplexity of the embedded model, kept for later
  python -m bench.quality --serve configs/default.yaml --perplexity --json bf16.json

  # what a quantized checkpoint loses against it
  python -m bench.quality --serve my-model-awq/ --perplexity --baseline bf16.json

  # questions of your own, one JSON object a line: {"prompt": "...", "answers": ["...", "..."]}
  python -m bench.quality --answers questions.jsonl --markdown quality.md

  # a hundred questions of a known benchmark against a server that runs
  python -m bench.quality --base-url http://127.0.0.1:8000/v1 --tasks hellaswag --limit 100 \\
      --tokenizer path/to/checkpoint

exit codes:
  0    everything was measured, whatever it is
  1    some questions failed; the report says how many
  2    wrong usage, the server or the harness can't be used, or the baseline is of something else
  130  stopped by Ctrl-C
"""


def parser() -> argparse.ArgumentParser:
    """All options; what they mean together is checked by `check`."""
    found = command_parser("python -m bench.quality", _DESCRIPTION, _EXAMPLES)
    _add_server(found)
    _add_perplexity(found)
    _add_answers(found)
    _add_tasks(found)
    output = found.add_argument_group("output")
    output.add_argument("--baseline", type=Path, metavar="FILE", help="compare with this --json")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the record to FILE")
    output.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to FILE")
    output.add_argument("--quiet", action="store_true", help="no progress")
    return found


def check(args: argparse.Namespace) -> None:
    """Raises BenchError: the options don't go together."""
    if not (args.perplexity or args.answers or args.tasks):
        raise BenchError("nothing to measure: give --perplexity, --answers or --tasks")
    if args.set and args.serve is None:
        raise BenchError("--set is for a server that is started here, with --serve")
    if args.text is not None and not args.perplexity:
        raise BenchError("--text is for --perplexity")
    if args.tasks:
        _check_tasks(args)
    check_outputs(args, "json", "markdown")


def _check_tasks(args: argparse.Namespace) -> None:
    if args.endpoint != "chat" and (args.tokenizer is None or not args.tokenizer.is_dir()):
        missing = "" if args.tokenizer is None else f"; there is no directory {args.tokenizer}"
        raise BenchError(
            "--tasks over completions needs the model's tokenizer: give --tokenizer DIR, the "
            f"checkpoint's directory, or ask with --endpoint chat{missing}"
        )
    for option in ("include", "data"):
        path = getattr(args, option)
        if path is not None and not path.is_dir():
            raise BenchError(f"--{option} {path}: there is no such directory")
    if args.data is None:
        check_shots(args.tasks, args.shots)


def names_model(serve: str) -> bool:
    """Whether `--serve` names a model, by its directory or on the hub, and no configuration."""
    return not serve.endswith((".yaml", ".yml"))


def _names(text: str) -> tuple[str, ...]:
    """An argparse type: names with commas between."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _add_server(found: argparse.ArgumentParser) -> None:
    server = add_server_options(
        found,
        what="CONFIG|MODEL",
        serve="start `gateway serve` on a configuration (.yaml), a checkpoint's directory or a "
        "model's name, and stop it afterwards",
    ).group
    server.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --serve: override the configuration; repeatable",
    )
    server.add_argument(
        "--concurrency",
        type=at_least(1),
        default=4,
        metavar="N",
        help="requests in flight (default: 4)",
    )
    server.add_argument(
        "--timeout",
        type=positive,
        default=600.0,
        metavar="S",
        help="seconds until a request counts as failed (default: 600)",
    )


def _add_perplexity(found: argparse.ArgumentParser) -> None:
    group = found.add_argument_group("perplexity")
    group.add_argument("--perplexity", action="store_true", help="measure it")
    group.add_argument("--text", type=Path, metavar="FILE", help="of this text, UTF-8")
    group.add_argument(
        "--length",
        type=at_least(2),
        default=512,
        metavar="N",
        help="tokens of a window (default: 512)",
    )
    group.add_argument(
        "--stride",
        type=at_least(1),
        metavar="N",
        help="tokens from one window's beginning to the next; a smaller one gives every token more "
        "context and takes longer (default: the length)",
    )
    group.add_argument(
        "--windows",
        type=at_least(2),
        default=64,
        metavar="N",
        help="windows at most, from the text's beginning (default: 64)",
    )


def _add_answers(found: argparse.ArgumentParser) -> None:
    group = found.add_argument_group("answers")
    group.add_argument(
        "--answers",
        type=Path,
        nargs="?",
        const=SAMPLE,
        metavar="FILE",
        help='JSONL of {"prompt" or "messages", "answer" or "answers"}; without FILE, thirty '
        "plain facts",
    )
    group.add_argument(
        "--endpoint",
        choices=("chat", "completions"),
        help="default: chat for --answers, completions for --tasks",
    )
    group.add_argument(
        "--max-tokens",
        type=at_least(1),
        default=64,
        metavar="N",
        help="completion tokens of an answer at most (default: 64)",
    )


def _add_tasks(found: argparse.ArgumentParser) -> None:
    group = found.add_argument_group("tasks")
    group.add_argument(
        "--tasks",
        type=_names,
        metavar="NAME,…",
        help="of lm-evaluation-harness, or of --include",
    )
    group.add_argument(
        "--limit", type=at_least(1), metavar="N", help="questions of a task (default: all)"
    )
    group.add_argument(
        "--shots", type=at_least(0), metavar="N", help="examples in a prompt (default: the task's)"
    )
    group.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="the checkpoint's directory; needed where a task compares log-probabilities",
    )
    group.add_argument(
        "--include", type=Path, metavar="DIR", help="a directory of task files (YAML) of your own"
    )
    group.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="data sets by their names on the Hub, as DIR/Rowan/hellaswag; needs no download",
    )
