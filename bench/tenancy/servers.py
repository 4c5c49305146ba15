"""The servers under test, and a key of each tenant where they know keys."""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from rich.console import Console

from bench.cli.command import add_start_timeout, at_least
from bench.client import Target, request_headers
from bench.errors import BenchError
from bench.load import key_of
from bench.measuring.facts import ServerFacts, read_server
from bench.prompts.counting import find_counter
from bench.prompts.workload import Draft, Vocabulary, calibrate
from bench.servers.contenders import Contender, parse_contender, up
from bench.servers.preset import read_configuration, vllm_preset
from bench.servers.server import ChildServer
from bench.tenancy.crowd import Tenant
from bench.tiny.servers import tiny_servers

_PROBE: Final = Draft((1, 2), ("the", "of", "and"))
_QUIET: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_KEYS: Final = "/admin/v1/keys"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that is up, and how its requests are written. `admin_key` makes keys on it."""

    name: str
    target: Target
    facts: ServerFacts
    vocabulary: Vocabulary
    child: ChildServer | None
    admin_key: str

    async def tenants(
        self, session: aiohttp.ClientSession, wanted: Sequence[Tenant]
    ) -> dict[str, Tenant]:
        """The tenants by name, each with a key of its own, or without where the server makes none.

        Raises BenchError: it has keys, but makes none for us.
        """
        return {
            one.name: replace(one, api_key=await self._key(session, one) or one.api_key)
            for one in wanted
        }

    async def _key(self, session: aiohttp.ClientSession, tenant: Tenant) -> str | None:
        url = self.target.base_url.removesuffix("/v1") + _KEYS
        name = f"{tenant.name}-{secrets.token_hex(4)}"
        headers = request_headers(self.admin_key)
        try:
            async with session.post(
                url, json={"name": name, "weight": tenant.weight}, headers=headers
            ) as response:
                answer = await response.json(content_type=None) if response.ok else {}
                if response.status in (404, 405):
                    return None
                key = answer.get("value")
                if not isinstance(key, str):
                    raise BenchError(f"{url}: HTTP {response.status}: no key was made")
                return key
        except aiohttp.ClientError as error:
            raise BenchError(f"{url}: {error}") from error


@dataclass(frozen=True, slots=True)
class Servers:
    """What is to be started, with which environment, and the key that makes keys."""

    contenders: tuple[Contender, ...]
    environment: dict[str, str]
    admin_key: str
    max_num_seqs: int


def add_shape_options(load: argparse._ArgumentGroup) -> None:
    """How long prompts and completions are, and which."""
    load.add_argument(
        "--input-tokens", type=at_least(8), default=64, metavar="N", help="default: 64"
    )
    load.add_argument(
        "--output-tokens", type=at_least(2), default=32, metavar="N", help="default: 32"
    )
    load.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where what was measured is written."""
    for name in ("json", "markdown", "svg"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} to FILE")


def add_server_options(parser: argparse.ArgumentParser, kinds: str) -> None:
    """Which servers are measured; see `chosen`."""
    group = parser.add_argument_group("servers")
    group.add_argument(
        "--server",
        action="append",
        metavar="NAME[=URL|COMMAND]",
        help=f"{kinds}, a URL that ends in /v1, or a command that listens on {{port}}, with "
        "{config} for the gateway configuration made for it; repeatable (default: all of these)",
    )
    group.add_argument(
        "--config",
        type=Path,
        default=Path("configs/default.yaml"),
        metavar="FILE",
        help="gateway configuration both servers take their model and engine settings from "
        "(default: configs/default.yaml)",
    )
    group.add_argument(
        "--tiny",
        action="store_true",
        help="a model of one layer with random weights instead, which is made for the run",
    )
    group.add_argument(
        "--admin-key",
        metavar="KEY",
        help="of a gateway that runs already, to make the tenants' keys with",
    )
    group.add_argument("--vllm-args", default="", metavar="ARGS", help="more for vLLM's server")
    add_start_timeout(group)


def chosen(
    args: argparse.Namespace,
    directory: Path,
    *,
    names: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    limited: Sequence[str] = (),
) -> Servers:
    """The servers of `--server`, by default `names`, on a configuration made in `directory`.

    `settings` are laid over the gateway's configuration, section by section; `limited` are the
    arguments of the server `vllm-limited`. Raises BenchError.
    """
    admin_key = args.admin_key or secrets.token_urlsafe(32)
    config = directory / "gateway.yaml"
    tree = _tree(args, directory)
    seats = int((tree.get("engine") or {}).get("max_num_seqs", 32))
    config.write_text(yaml.safe_dump(_laid_over(tree, settings, directory, admin_key)), "utf-8")
    wanted = args.server or list(names)
    environment = dict(_QUIET)
    known: dict[str, Contender] = {"gateway": _gateway(config)}
    if any(name.startswith("vllm") for name in wanted):
        has_gpu = Path("/dev/nvidiactl").exists()
        _, peer, more = vllm_preset(config, model_path=None, has_gpu=has_gpu)
        peer = replace(peer, command=(*peer.command, *shlex.split(args.vllm_args)))
        known["vllm"] = peer
        known["vllm-limited"] = Contender("vllm-limited", command=(*peer.command, *limited))
        environment |= more
    found = tuple(
        known.get(text) or parse_contender(text.replace("{config}", str(config))) for text in wanted
    )
    if len({one.name for one in found}) < len(found):
        raise BenchError("two of --server have the same name")
    return Servers(found, environment, admin_key, seats)


@asynccontextmanager
async def started(
    contender: Contender,
    servers: Servers,
    session: aiohttp.ClientSession,
    start_timeout_s: float,
    console: Console,
) -> AsyncIterator[Subject]:
    """Start one of them, learn its tokenizer's words, and stop it on leaving. Raises BenchError."""
    if contender.url is not None and key_of(contender.url) is not None:
        raise BenchError(
            f"{contender.name}: leave out what is before the host of its URL; keys are given by "
            "--admin-key and OPENAI_API_KEY"
        )
    environ = {**servers.environment, **os.environ}
    with console.status(f"starting {contender.name}") as status:

        def waited(seconds: float) -> None:
            status.update(f"starting {contender.name}: {seconds:.0f} s")

        async with up(contender, environ, start_timeout_s, waited) as running:
            facts = await read_server(
                session, running.base_url, api_key=os.environ.get("OPENAI_API_KEY"), model=None
            )
            target = Target(running.base_url, "completions", facts.model)
            counter = await find_counter(session, target, _PROBE.fields("text"))
            vocabulary = await calibrate(counter, "text")
            status.stop()
            yield Subject(
                contender.name, target, facts, vocabulary, running.child, servers.admin_key
            )


def _tree(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    file: Path = args.config
    if args.tiny:
        tiny_servers(directory, [], engine={}, server={})
        file = directory / "gateway.yaml"
    return read_configuration(file)


def _laid_over(
    tree: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    directory: Path,
    admin_key: str,
) -> dict[str, Any]:
    """State in a directory that goes away, and an administrator who makes keys."""
    digest = hashlib.sha256(admin_key.encode()).hexdigest()
    ours: dict[str, Mapping[str, Any]] = {
        "auth": {"admin_keys": [{"name": "bench", "sha256": digest}]},
        "state": {"url": f"sqlite:///{directory / 'state.db'}"},
        **settings,
    }
    found = dict(tree)
    for name, section in ours.items():
        found[name] = {**(found.get(name) or {}), **section}
    found.setdefault("log_level", "warning")
    return found


def _gateway(config: Path) -> Contender:
    command = (sys.executable, "-m", "gateway", "serve", "--config", str(config))
    return Contender("gateway", command=(*command, "--host", "127.0.0.1", "--port", "{port}"))
