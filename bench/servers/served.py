"""The one server that a command measures: one that runs, or a gateway that is started for it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import NamedTuple

from rich.console import Console

from bench.cli.command import add_key_option, positive
from bench.servers.server import ChildServer, free_port, running_server

DEFAULT_URL = "http://127.0.0.1:8000/v1"
_SERVE = "start `gateway serve --config CONFIG` on a free port, and stop it afterwards"


class ServerOptions(NamedTuple):
    """The group, for more options, and that part of it of which only one may be given."""

    group: argparse._ArgumentGroup
    where: argparse._MutuallyExclusiveGroup


def add_server_options(
    parser: argparse.ArgumentParser,
    *,
    serve: str = _SERVE,
    what: str = "CONFIG",
    several: bool = False,
) -> ServerOptions:
    """Where the server is; `serve` is the help of --serve, `several` allows many --base-url."""
    group = parser.add_argument_group("server")
    where = group.add_mutually_exclusive_group()
    if several:
        where.add_argument(
            "--base-url",
            action="append",
            metavar="URL",
            help=f"repeatable: requests go to each in turn (default: {DEFAULT_URL})",
        )
    else:
        where.add_argument(
            "--base-url", default=DEFAULT_URL, metavar="URL", help=f"default: {DEFAULT_URL}"
        )
    where.add_argument("--serve", metavar=what, help=serve)
    group.add_argument("--model", metavar="NAME", help="default: the first the server lists")
    add_key_option(group)
    group.add_argument(
        "--start-timeout",
        type=positive,
        default=900.0,
        metavar="S",
        help="seconds to wait until a server that is started is ready (default: 900)",
    )
    return ServerOptions(group, where)


async def served(
    stack: AsyncExitStack,
    args: argparse.Namespace,
    console: Console,
    *,
    settings: Iterable[str] = (),
    is_model: bool = False,
) -> ChildServer:
    """`gateway serve` on `--serve`, a configuration or a model, with `settings` (KEY=VALUE) over
    its own; it stops with `stack`. Raises BenchError."""
    port = free_port()
    command = [sys.executable, "-m", "gateway", "serve"]
    command += ["--model" if is_model else "--config", args.serve]
    for setting in settings:
        command += ["--set", setting]
    command += ["--host", "127.0.0.1", "--port", str(port)]
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
    return server
