"""The command line: `gateway …`, or `python -m gateway …`.

Nothing heavy is imported before a command runs, so that help and completion are immediate.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Annotated

import typer

from gateway import __version__
from gateway.commands.chat import chat
from gateway.commands.check import check
from gateway.commands.keys import keys
from gateway.commands.plan import plan
from gateway.commands.quantize import quantize
from gateway.commands.serve import serve
from gateway.commands.teams import teams
from gateway.commands.usage import usage

_UNWRITABLE = (
    errno.EPIPE, errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO
)  # fmt: skip

app = typer.Typer(
    name="gateway",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(chat)
app.command()(check)
app.command()(plan)
app.command()(quantize)
app.add_typer(keys)
app.add_typer(teams)
app.command()(usage)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """An OpenAI-compatible gateway with vLLM inside.

    [b]Examples[/b]

      gateway serve                            the embedded model, port 8000
      gateway serve --config mistral-7b-awq    another one, on a GPU
      gateway chat                             talk to a model in the terminal
      echo "What is 2+2?" | gateway chat       one answer, for scripts
      gateway check t4-mistral-7b-awq          what would run; does it fit?
      gateway plan --gpu t4 -c 32              which precision fits, how fast?
      gateway quantize MODEL --method awq -o DIR   4 or 8 bits, ready to serve
      gateway keys create my-app --tpm 100k    an API key, with limits
      gateway usage --by team,model            requests, tokens and cost
    """


def main() -> None:
    """Entry point of the `gateway` console script."""
    _open_streams()
    try:
        try:
            app(prog_name="gateway")
        finally:
            sys.stdout.flush()  # Python would do it too, when nobody can tell of it any more
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        if error.errno != errno.EPIPE:  # who reads no more wants to know no more
            with suppress(OSError):
                typer.echo(f"error: can't write: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left of it
        sys.exit(1)


def _open_streams() -> None:
    """A stream that was closed is None, and the next file that is opened has its number."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None:
        # Not to be written: nobody would see an answer that is given once.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
