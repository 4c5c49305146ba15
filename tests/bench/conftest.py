"""Scripted servers on free ports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from bench.client import new_session
from bench.fake import FakeServer, Script


class StartFake(Protocol):
    """Starts a fake server; gives it and its base URL."""

    async def __call__(
        self, script: Script, kind: type[FakeServer] = FakeServer
    ) -> tuple[FakeServer, str]: ...


@pytest.fixture
async def start_fake() -> AsyncIterator[StartFake]:
    async with AsyncExitStack() as stack:

        async def start(
            script: Script, kind: type[FakeServer] = FakeServer
        ) -> tuple[FakeServer, str]:
            fake = kind(script)
            server = TestServer(fake.app)
            await server.start_server()
            stack.push_async_callback(server.close)
            return fake, str(server.make_url("/v1"))

        yield start


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with new_session() as opened:
        yield opened
