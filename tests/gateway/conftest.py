"""A live gateway on a socket, with a simulated engine, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from engine.base import Engine, LoadedModel
from gateway.app import start_engine
from gateway.config import GatewayConfig, load_config
from gateway.server import Serving
from gateway.services import Services
from tests.engines import Engines

MODEL = "test-model"


@dataclass
class LiveGateway:
    """A running gateway: its address, its rooms, and clients for it."""

    serving: Serving
    services: Services
    task: asyncio.Task[int]
    http: aiohttp.ClientSession
    openai: AsyncOpenAI

    @property
    def port(self) -> int:
        return self.serving.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine(self) -> Engine:
        return self.services.deployments.default.engine()

    def model(self, name: str) -> LoadedModel:
        """What serves a model, whatever it does."""
        return self.services.deployments.resolve(name).model()

    @property
    def connections(self) -> int:
        """Open connections, as the server sees them."""
        return self.serving.connections

    async def post(self, path: str, body: Any, **kwargs: Any) -> tuple[int, Any]:
        """Post JSON, or bytes as they are; returns status and decoded answer."""
        sent: dict[str, Any] = (
            {"data": body, "headers": {"content-type": "application/json"}}
            if isinstance(body, bytes)
            else {"json": body}
        )
        async with self.http.post(self.url + path, **{**sent, **kwargs}) as answer:
            return answer.status, await answer.json()

    async def chat(self, **fields: Any) -> tuple[int, Any]:
        """Post a chat completion with sensible defaults; None drops a default."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **fields}
        return await self.post("/v1/chat/completions", body)

    async def idle(self) -> None:
        """Return once neither gateway nor an engine has anything running."""
        async with asyncio.timeout(5):
            await self.services.admission.idle()
            for replica in self.services.deployments.replicas:
                if replica.loaded is not None:
                    await replica.loaded.drain()


StartGateway = Callable[..., Awaitable[LiveGateway]]


@pytest.fixture
async def start_gateway() -> AsyncIterator[StartGateway]:
    """Start gateways with configuration overrides in dotted keys; all are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(
            wait_ready: bool = True, start: Any = start_engine, **overrides: Any
        ) -> LiveGateway:
            defaults = {
                "model_name": MODEL,
                "engine.kind": "simulated",
                "engine.max_model_len": 512,
                "engine.simulated.step_ms": 1,
                "engine.simulated.prefill_ms_per_token": 0,
                "server.port": 0,
                "state.url": "sqlite://",
                "server.drain_grace_s": 5,
            }
            if "models" in overrides:  # each with settings of its own
                defaults = {
                    key: defaults[key] for key in defaults if key.startswith(("server.", "state."))
                }
            config = load_config(overrides={**defaults, **overrides}, environ={})
            return await enter_gateway(stack, config, wait_ready, start)

        yield start


async def enter_gateway(
    stack: AsyncExitStack, config: GatewayConfig, wait_ready: bool = True, start: Any = start_engine
) -> LiveGateway:
    """Start a gateway that is stopped when the stack is left."""
    serving = Serving(config, start)
    task = asyncio.create_task(serving.run())
    http = await stack.enter_async_context(
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
    )
    client = AsyncOpenAI(
        base_url=f"http://127.0.0.1:{serving.port}/v1", api_key="none", max_retries=0
    )
    stack.push_async_callback(client.close)

    async def stop() -> None:
        serving.stop()
        await task

    stack.push_async_callback(stop)
    gateway = LiveGateway(serving, serving.services, task, http, client)
    if wait_ready:
        async with asyncio.timeout(10):
            await serving.ready()
    return gateway


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> LiveGateway:
    """One gateway with the defaults."""
    return await start_gateway()


class Lent:
    """An engine that goes on when the gateway that used it ends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def close(self) -> None:
        await self._engine.drain()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def tiny_gateway(engines: Engines) -> AsyncIterator[LiveGateway]:
    """A gateway before a real engine, with a model whose steps take a millisecond."""
    engine = await engines.use("tiny")

    async def lend(*_args: Any, **_kwargs: Any) -> Any:
        return Lent(engine)

    overrides = {"model_name": MODEL, "server.port": 0, "state.url": "sqlite://"}
    config = load_config(overrides=overrides, environ={})
    async with AsyncExitStack() as stack:
        yield await enter_gateway(stack, config, start=lend)
