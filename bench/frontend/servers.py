"""The servers of the front-end benchmark: started here on the tiny model, or running already."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import psutil
from rich.console import Console

from bench.client import new_session
from bench.errors import BenchError
from bench.frontend.run import Served
from bench.load import key_of, without_key
from bench.measuring.facts import ServerFacts, read_server
from bench.servers.contenders import Contender, parse_contender, up
from bench.tiny.servers import NAME, TinyServers

# One line a request would be written by only one of the servers.
_NO_ACCESS_LOG = "--disable-uvicorn-access-log"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that runs already: its contender, and the process that speaks HTTP."""

    contender: Contender
    pid: int


def chosen_servers(servers: Sequence[str], tiny: TinyServers) -> list[Contender]:
    """What `--server` names: `gateway`, `vllm`, or NAME=COMMAND. Raises BenchError."""
    known = {one.name: one for one in tiny.contenders}
    known["vllm"] = replace(known["vllm"], command=(*known["vllm"].command, _NO_ACCESS_LOG))
    found = []
    for text in servers:
        if "=" not in text and text not in known:
            raise BenchError(f"--server {text}: expected {', '.join(known)} or NAME=COMMAND")
        one = known.get(text) or parse_contender(text.replace("{model}", str(tiny.model.path)))
        if one.url is not None:
            raise BenchError(f"--server {text}: a server that runs already is a --peer")
        found.append(one)
    return found


def parse_peer(text: str) -> Peer:
    """Read `NAME=URL,PID`. Raises BenchError."""
    what, _, pid = text.rpartition(",")
    wrong = BenchError(f"--peer {text}: expected NAME=URL,PID")
    if not pid.isdecimal() or "=http://" not in what:
        raise wrong
    if not psutil.pid_exists(int(pid)):
        raise BenchError(f"--peer {text}: there is no process {pid}")
    return Peer(parse_contender(what), int(pid))


@asynccontextmanager
async def all_up(
    contenders: Sequence[Contender],
    peers: Sequence[Peer],
    environment: dict[str, str],
    start_timeout_s: float,
    console: Console,
) -> AsyncIterator[list[tuple[Served, ServerFacts]]]:
    """Start what has to be started, one after the other, and stop it on leaving.

    Raises BenchError: one doesn't start, can't be reached, or doesn't serve the model.
    """
    names = [one.name for one in (*contenders, *(peer.contender for peer in peers))]
    if len(set(names)) < len(names):
        raise BenchError(f"two servers have the same name: {', '.join(names)}")
    async with AsyncExitStack() as stack:
        served = []
        for one in contenders:
            with console.status(f"starting {one.name}"):
                started = await stack.enter_async_context(
                    up(one, {**environment, **os.environ}, start_timeout_s, lambda _waited: None)
                )
            if started.child is not None:
                served.append(Served(one.name, started.base_url, started.child.pid))
        served += [Served(one.contender.name, one.contender.url or "", one.pid) for one in peers]
        yield [(one, await _facts(one)) for one in served]


async def _facts(server: Served) -> ServerFacts:
    async with new_session() as session:
        return await read_server(
            session, without_key(server.base_url), api_key=key_of(server.base_url), model=NAME
        )
