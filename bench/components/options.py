"""What the command is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.command import EXIT_CODES, at_least, command_parser, positive
from bench.servers.served import add_server_options

OUTPUTS = ("json", "svg", "markdown")
KINDS = {"streamed": (True,), "whole": (False,), "both": (True, False)}

_DESCRIPTION = """\
Measure where the time of a request goes: on the way, and in each stage of the server.

The server's own clock tells its stages, in a `Server-Timing` header and at the end of a stream in
a comment (the gateway's `server.server_timing`, which --serve turns on). The client's clock runs
from before a request is sent to the last byte of its answer.

  network     what the client saw beyond what the server accounts for: both ways, and waiting
              for the event loops of both sides
  auth parse  the key; the body, read and validated        render     the chat template
  tokenize    text to tokens (with a chat template: part of render where the server doesn't
              tell them apart)                             queue      limits and the fair queue
  prefill     from the engine's queue to the first token   decode     the tokens after it
  detokenize  tokens to text, of this request              frame      its events, made and sent
  unexplained what of the server's own total no stage has; always shown

Each request's parts add up to its total. Prompts are random, of exactly --input-tokens tokens.
"""

_EXAMPLES = f"""\
examples:
  # start a gateway with this configuration, measure it, stop it
  python -m bench.components --serve configs/default.yaml --svg components.svg

  # a gateway that runs already, started with --set server.server_timing=true
  python -m bench.components --concurrency 1,32 --answers streamed --json components.json

{EXIT_CODES}"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = command_parser("python -m bench.components", _DESCRIPTION, _EXAMPLES)
    add_server_options(
        made,
        serve="start `gateway serve --config CONFIG --set server.server_timing=true` on a free "
        "port, and stop it afterwards",
    )
    _add_load(made.add_argument_group("load"))
    output = made.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the full report to FILE")
    output.add_argument("--svg", type=Path, metavar="FILE", help="draw median requests")
    output.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to FILE")
    output.add_argument("--quiet", action="store_true", help="no progress bar")
    return made


def _add_load(load: argparse._ArgumentGroup) -> None:
    load.add_argument(
        "--concurrency",
        type=_concurrencies,
        default=(1, 8, 32),
        metavar="N,N,…",
        help="requests in flight, always; one case for each (default: 1,8,32)",
    )
    load.add_argument(
        "--answers", choices=tuple(KINDS), default="both", help="what is asked for (default: both)"
    )
    load.add_argument(
        "--requests",
        type=at_least(1),
        metavar="N",
        help="requests of each case, at least its concurrency (default: 4 x concurrency, at least "
        "32)",
    )
    for name in ("input", "output"):
        load.add_argument(
            f"--{name}-tokens",
            type=at_least(2),
            default=128,
            metavar="N",
            help=f"{name} tokens of each request, exactly (default: 128)",
        )
    load.add_argument(
        "--endpoint",
        choices=("chat", "completions"),
        default="chat",
        help="which API is measured (default: chat)",
    )
    load.add_argument("--seed", type=int, default=0, metavar="N", help="of prompts (default: 0)")
    load.add_argument(
        "--timeout",
        type=positive,
        default=600.0,
        metavar="S",
        help="seconds until a request counts as failed (default: 600)",
    )


def _concurrencies(text: str) -> tuple[int, ...]:
    whole = at_least(1)
    found = tuple(dict.fromkeys(whole(part) for part in text.split(",")))
    return tuple(sorted(found))


_concurrencies.__name__ = "list of whole numbers"
