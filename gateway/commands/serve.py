"""`gateway serve`: the OpenAI API over HTTP."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from gateway.commands import ConfigOption, EagerOption, SetOption, config_or_exit

logger = logging.getLogger(__name__)


def serve(
    config: ConfigOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A Hugging Face id, a local directory, or the embedded model's name.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What clients call the model. Default: MODEL as given."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Address to listen on (0.0.0.0: every one)."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", help="Port to listen on; 0 takes a free one."),
    ] = None,
    eager: EagerOption = False,
    log_level: Annotated[
        str | None,
        typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning, error"),
    ] = None,
    assignments: SetOption = None,
) -> None:
    """Serve a model over the OpenAI API.

    Without options: the embedded model on http://127.0.0.1:8000/v1. SIGTERM or Ctrl-C drains:
    running answers finish, new requests are refused; a second one stops at once.

    [b]Examples[/b]

      gateway serve
      gateway serve --model meta-llama/Llama-3.2-1B-Instruct --port 8100
      gateway serve --config mistral-7b-awq --host 0.0.0.0
      GATEWAY_SERVER__PORT=8100 gateway serve --set engine.max_num_seqs=64

    [b]Exit codes[/b]  0 stopped cleanly · 1 could not start ·
    2 wrong usage or configuration · 3 the engine died · 130 stopped by a second signal
    """
    overrides = {
        "model_name": name,
        "server.host": host,
        "server.port": port,
        "log_level": log_level,
    }
    loaded = config_or_exit(config, assignments, overrides, model=model, eager=eager)
    from gateway import logs

    logs.configure(loaded.log_level)
    from gateway import server
    from gateway.config.reading import overlooked

    for warning in overlooked(loaded):
        logger.warning("%s", warning)
    raise typer.Exit(server.serve(loaded))
