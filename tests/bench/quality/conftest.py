"""Servers with known probabilities, on free ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from tests.bench.quality.known import Known

Serve = Callable[[Known], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server; gives its base URL."""
    running = []

    async def start(known: Known) -> str:
        server = TestServer(known.app)
        await server.start_server()
        running.append(server)
        return str(server.make_url("/v1"))

    yield start
    for server in running:
        await server.close()


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A text of 400 tokens, ids 1 to 9."""
    file = tmp_path / "words.txt"
    file.write_text(" ".join("x" * (1 + n * n % 9) for n in range(400)))
    return file
