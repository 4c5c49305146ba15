"""The server that is measured: one that runs, or one that is started for it."""

from __future__ import annotations

import argparse
import sys
from contextlib import AsyncExitStack

from rich.console import Console

from bench.server import free_port, running_server


async def base_url(stack: AsyncExitStack, args: argparse.Namespace, console: Console) -> str:
    """Where the server is; one that is started here stops with `stack`. Raises BenchError."""
    if args.serve is None:
        return str(args.base_url).rstrip("/")
    port = free_port()
    command = serve_command(args.serve, args.set, port)
    with console.status("starting the server") as status:
        server = await stack.enter_async_context(
            running_server(
                command,
                port,
                start_timeout_s=args.start_timeout,
                on_wait=lambda waited: status.update(f"starting the server: {waited:.0f} s"),
            )
        )
    console.print(f"the server was ready after {server.ready_after_s:.1f} s")
    return server.base_url


def serve_command(what: str, settings: list[str], port: int) -> list[str]:
    """`gateway serve` on a configuration file, or on a model where `what` is none."""
    is_config = what.endswith((".yaml", ".yml"))
    command = [sys.executable, "-m", "gateway", "serve"]
    command += ["--config" if is_config else "--model", what]
    for setting in settings:
        command += ["--set", setting]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]
