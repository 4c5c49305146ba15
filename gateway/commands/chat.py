"""`gateway chat`: talk to a model in the terminal, or in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands import (
    ConfigOption,
    EagerOption,
    Exit,
    SetOption,
    config_or_exit,
    fail,
    finite,
    on_terminal,
)

if TYPE_CHECKING:
    from gateway.commands.session import OpenModel


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A Hugging Face id, a local directory, or the embedded model's name (the "
            "default). With --url: a model of that server (default: its first).",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Talk to a running server instead of loading.")
    ] = None,
    api_key: Annotated[
        str,
        typer.Option("--api-key", envvar="OPENAI_API_KEY", show_default=False, help="For --url."),
    ] = "none",
    config: ConfigOption = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System message.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", "-n", min=1, help="Longest answer. Default: 1024, or the server's."
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            "-t",
            min=0,
            max=2,
            callback=finite,
            help="0 always takes the likeliest.",
        ),
    ] = 0.2,
    top_p: Annotated[float, typer.Option("--top-p", min=0.001, max=1, callback=finite)] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeatable sampling.")] = None,
    eager: EagerOption = False,
    lines: Annotated[
        bool, typer.Option("--lines", help="In a pipe: every line is a turn of its own.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a turn: the answer and its performance.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the engine's own log.")
    ] = False,
    assignments: SetOption = None,
) -> None:
    """Chat with a model, loaded here or behind a URL.

    Answers stream to stdout. After each, stderr has its prompt and answer tokens, the time to
    the first token, tokens/s after it, and total throughput. Ctrl-C stops an answer.

    [b]Examples[/b]

      gateway chat
      gateway chat meta-llama/Llama-3.2-1B-Instruct --system "Answer in one word."
      echo "What is 2+2?" | gateway chat --temperature 0
      gateway chat --json < prompt.txt | jq .tokens_per_second
      gateway chat --url http://127.0.0.1:8000

    [b]Exit codes[/b]  0 done · 1 no model or no answer · 2 wrong usage or
    configuration · 130 interrupted
    """
    prompts = None if on_terminal() else piped_prompts(lines=lines)

    from gateway import logs
    from gateway.commands import opening
    from gateway.commands.conversation import AnswerOptions
    from gateway.commands.session import hold

    logs.configure("debug" if verbose else "error")
    open_model: OpenModel
    if url is not None:
        open_model = partial(opening.connect, url=url, api_key=api_key, name=model)
    else:
        loaded = config_or_exit(config, assignments, {}, model=model, eager=eager)
        open_model = partial(opening.load, config=loaded, verbose=verbose)
    options = AnswerOptions(max_tokens, temperature, top_p, seed)
    raise typer.Exit(hold(open_model, options, system, prompts, as_json=as_json))


def piped_prompts(*, lines: bool) -> Iterator[str]:
    """The prompts on stdin: all of it as one, or each line that is not blank."""
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    texts = sys.stdin if lines else iter([sys.stdin.read()])
    prompts = (text.strip() for text in texts if text.strip())
    first = next(prompts, None)
    if first is None:
        fail("nothing to answer: stdin is empty", Exit.INVALID)
    return chain([first], prompts)
