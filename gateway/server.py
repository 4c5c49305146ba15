"""Running the application: loading behind an open socket, signals, draining."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import psutil
import uvicorn
import uvloop

from engine.base import EngineError
from gateway.app import build_app, start_engine
from gateway.config import ConfigError, GatewayConfig, ServerConfig, UnreachableError
from gateway.connection import bounded_protocol
from gateway.errors import UnavailableError
from gateway.services import Services
from gateway.supervisor import StartEngine, Supervisor

logger = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_INVALID, EXIT_DEAD, EXIT_KILLED = 0, 1, 2, 3, 130
_GC_THRESHOLDS = 20_000, 20, 50
_INTERRUPTED_S = 5.0
_TOLD_S = 1.0
_CLOSE_CONNECTIONS_S = 5


def serve(config: GatewayConfig) -> int:
    """Serve until a signal or a fatal failure; returns the process's exit code.

    0 after SIGTERM or SIGINT, 1 where the engine can't start or the address can't be bound, 2 where
    the configuration can't be used, 3 once no engine is alive or will be again. A second signal
    kills the engine and the process at once, with exit code 130.
    """
    try:
        serving = Serving(config)
    except (ConfigError, OSError) as error:
        return _not_started(error)
    # What a request allocates dies with it. Looking for cycles after every few hundred
    # objects, as Python does, would be a tenth of its cost.
    gc.set_threshold(*_GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serving.run())


class _Server(uvicorn.Server):
    """uvicorn with its signals left to us: it would stop listening before the drain is over."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """One run of the server, from bound socket to closed engine.

    The socket is bound when this is made; OSError says the address can't be had.
    """

    def __init__(self, config: GatewayConfig, start: StartEngine = start_engine) -> None:
        self._config = config
        self._app = build_app(config)
        self.services: Services = self._app.state.services
        self._supervisor = Supervisor(
            self.services.deployments.replicas,
            self.services.adapters,
            config.health,
            start,
            self._end_when_dead,
        )
        self._stop = asyncio.Event()
        self._loaded = asyncio.Event()
        self._exit_code = EXIT_OK
        self._server = _Server(self._uvicorn_config())
        self._socket = _bind(config.server)

    @property
    def port(self) -> int:
        """The port that is listened on, also where the configuration says 0."""
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._server.server_state.connections)

    async def ready(self) -> None:
        """Return once every engine is loaded; never where one can't be."""
        await self._loaded.wait()

    def stop(self) -> None:
        """Begin to drain, then end."""
        self._stop.set()

    async def run(self) -> int:
        """Serve until `stop`; returns the exit code."""
        server = self._server
        with self._signals():
            try:
                await self.services.open()
            except (ConfigError, UnavailableError) as error:
                await self.services.close()
                self._socket.close()
                return _not_started(error)
            accepting = asyncio.create_task(server.serve([self._socket]))
            loading = asyncio.create_task(self._load())
            watching = asyncio.create_task(self.services.lifecycle.watch())
            await self._stop.wait()
            loading.cancel()
            self._supervisor.stop()
            await asyncio.gather(loading, return_exceptions=True)
            await self._drain()
            await self.services.background.close()
            await self._cancel_tasks()
            server.should_exit = True
            await accepting
            watching.cancel()
            await self._supervisor.close()
            await self.services.close()
        logger.info("stopped")
        return self._exit_code

    async def _load(self) -> None:
        """Load one model after the other."""
        address = self._config.server.address(self.port)
        for replica in self.services.deployments.replicas:
            logger.info("listening on %s, loading %s", address, replica.config.engine.model)
            try:
                await self._supervisor.load(replica)
            except Exception as error:
                if isinstance(error, EngineError):
                    logger.error("the engine of %s could not start: %s", replica.name, error)
                else:
                    logger.exception("the engine of %s could not start", replica.name)
                self._exit_code = EXIT_FAILED
                self._stop.set()
                return
            logger.info("ready: %s at %s/v1", replica.name, address)
        self._loaded.set()

    def _end_when_dead(self) -> None:
        """No engine will serve again: only a new start helps, and who started this one is told so
        by its exit code."""
        if self._config.health.exit_when_dead and not self._stop.is_set():
            logger.error("no engine is alive any more: ending")
            self._exit_code = EXIT_DEAD
            self._stop.set()

    async def _drain(self) -> None:
        """Take nothing new; let what runs finish within the grace period, then interrupt it."""
        self.services.lifecycle.begin_drain()
        admission, grace = self.services.admission, self._config.server.drain_grace_s
        logger.info("draining %d requests, at most %g s", admission.inside, grace)
        try:
            await asyncio.wait_for(admission.idle(), grace)
        except TimeoutError:
            logger.warning("grace period over: interrupting %d requests", admission.inside)
            self.services.pipeline.interrupt_all()
            self.services.poolings.interrupt_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(admission.idle(), _INTERRUPTED_S)

    async def _cancel_tasks(self) -> None:
        """End what holds no permit: uploads, clients that don't read. Each is told so once, also a
        request whose turn on its connection comes only now."""
        tasks, told = self._server.server_state.tasks, set[asyncio.Task[None]]()
        while new := tasks - told:
            await asyncio.sleep(0)  # who is cancelled before it has begun can't answer
            for task in new:
                task.cancel()
            told |= new
            await asyncio.wait(new, timeout=_TOLD_S)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """First SIGTERM or SIGINT: drain. Second: stop at once, whatever the loop is doing."""
        loop = asyncio.get_running_loop()
        seen = 0

        def received(_signum: int, _frame: FrameType | None) -> None:
            nonlocal seen
            seen += 1
            if seen > 1:
                _kill_everything()
            loop.call_soon_threadsafe(self._stop.set)

        try:
            before = {s: signal.signal(s, received) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread: whoever runs us there calls stop()
            yield
            return
        try:
            yield
        finally:
            for signum, previous in before.items():
                signal.signal(signum, previous)

    def _uvicorn_config(self) -> uvicorn.Config:
        limits = self._config.server
        return uvicorn.Config(
            self._app,
            http=bounded_protocol(limits),
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=math.ceil(limits.keep_alive_s),
            timeout_graceful_shutdown=_CLOSE_CONNECTIONS_S,
        )


def _bind(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(2048)
        listener.setblocking(False)
    except (OSError, TypeError, ValueError) as error:  # the latter of what can't be a host's name
        listener.close()
        reason = (isinstance(error, OSError) and error.strerror) or error
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise OSError(
            f"server.host, server.port: can't listen on {config.address(config.port)}: {reason}"
            f"{'; is another server running there?' if taken else ''}"
        ) from error
    return listener


def _not_started(error: Exception) -> int:
    logger.error("%s", error)
    # A database that is down may be up again: whoever starts us may try again.
    invalid = isinstance(error, ConfigError) and not isinstance(error, UnreachableError)
    return EXIT_INVALID if invalid else EXIT_FAILED


def _kill_everything() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(EXIT_KILLED)
