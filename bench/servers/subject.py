"""The server of a measurement as people name it: a configuration, a URL, or NAME=what."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.cli.redaction import redacted
from bench.errors import BenchError
from bench.servers.contenders import Contender, parse_contender

_CONFIGS = (".yaml", ".yml")


def parse_subject(text: str) -> Contender:
    """Read `CONFIG`, `URL`, `NAME=CONFIG`, `NAME=URL` or `NAME=COMMAND`. Raises BenchError."""
    if text.startswith(("http://", "https://")):
        return Contender(redacted([text])[0], url=text.rstrip("/"))
    if "=" not in text:
        return gateway_on(Path(text))
    name, _, what = text.partition("=")
    if what.strip().endswith(_CONFIGS) and len(what.split()) == 1:
        return gateway_on(Path(what.strip()), name.strip())
    return parse_contender(text)


def gateway_on(config: Path, name: str | None = None) -> Contender:
    """`gateway serve` on a configuration, by default called like the file. Raises BenchError."""
    if not config.is_file():
        raise BenchError(
            f"{config}: no such file; a server is a configuration of the gateway, a URL, "
            "or NAME=URL or NAME=COMMAND"
        )
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    return Contender(name or config.stem, command=tuple(command))
