"""A gateway with the tiny model, as a child that can be killed, frozen and started again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import msgspec
import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.chaos.books import Row
from bench.chaos.exchange import Client
from bench.chaos.held import Held, gone, held_by
from bench.errors import BenchError
from bench.servers.server import free_port
from bench.tiny.model import TinyModel
from bench.tiny.servers import tiny_servers

_CORE: Final = "EngineCore"
_POLL_S: Final = 0.01
_LEFT_S: Final = 10.0
_QUIET: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
# Its own shared memory, in which what is left behind is nobody else's.
_ALONE: Final = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
# Twenty engines in a row are killed here, each soon after its start; the pauses still double.
KEEP_STARTING: Final = {"restarts": 1000, "restart_pause_s": 1e-6}

Settings = Mapping[str, Mapping[str, Any]]


class Place:
    """A directory with the tiny model, where gateways are started. Raises BenchError."""

    def __init__(self, directory: Path, start_timeout_s: float = 300.0) -> None:
        self.directory = directory
        self.start_timeout_s = start_timeout_s
        self.admin_key = secrets.token_urlsafe(32)
        engine = {"warmup": False, "kv_cache_gib": 0.25, "max_num_seqs": 32}
        self.model: TinyModel = tiny_servers(directory, [], engine=engine, server={}).model
        self._tree = yaml.safe_load((directory / "gateway.yaml").read_text("utf-8"))

    def configured(self, name: str, settings: Settings, state: Path | None = None) -> Gateway:
        """A gateway that isn't started yet; `settings` are laid over its configuration."""
        home = self.directory / name
        home.mkdir()
        (home / "tmp").mkdir()
        database = (state or home) / "state.db"
        digest = hashlib.sha256(self.admin_key.encode()).hexdigest()
        ours: dict[str, Mapping[str, Any]] = {
            "auth": {"admin_keys": [{"name": "chaos", "sha256": digest}]},
            "state": {"url": f"sqlite:///{database}"},
            "health": KEEP_STARTING,
        }
        tree = dict(self._tree)
        for part in (ours, settings):
            for section, values in part.items():
                tree[section] = {**(tree.get(section) or {}), **values}
        (home / "gateway.yaml").write_text(yaml.safe_dump(tree), "utf-8")
        return Gateway(self, home, database)


class Gateway:
    """One configuration and one database; the program on them can be started again and again."""

    def __init__(self, place: Place, home: Path, database: Path) -> None:
        self.database = database
        self.log = home / "log"
        self.url = ""
        self.left: list[psutil.Process] = []
        self._place = place
        self._home = home
        self._child: asyncio.subprocess.Process | None = None
        self._alone = os.geteuid() == 0

    @property
    def pid(self) -> int:
        """Raises BenchError: it isn't started yet."""
        if self._child is None:
            raise BenchError("the gateway isn't started yet")
        return self._child.pid

    async def start(self) -> float:
        """Start it and wait until it is ready; returns after how many seconds. Raises BenchError:
        it ended, or took too long."""
        begun = perf_counter()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        serve = (sys.executable, "-m", "gateway", "serve", "--config")
        command = [*serve, str(self._home / "gateway.yaml"), "--port", str(port)]
        if self._alone:
            command = [*_ALONE, *command]
        environ = {**os.environ, **_QUIET, "TMPDIR": str(self._home / "tmp")}
        with self.log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, env=environ, start_new_session=True
            )
        async with self.client() as client:
            await self.until_ready(client, self._place.start_timeout_s)
        return perf_counter() - begun

    def client(self) -> Client:
        """Somebody who asks it; to be used with `async with`."""
        return Client(self.url)

    def administrator(self) -> Client:
        return Client(self.url, {"authorization": f"Bearer {self._place.admin_key}"})

    async def until_ready(self, client: Client, timeout_s: float) -> float:
        """Seconds until `/readyz` says so. Raises BenchError."""

        async def ready() -> bool:
            if self._child is None or self._child.returncode is not None:
                raise BenchError(f"the gateway has ended; the end of its log:\n{self._tail()}")
            return (await client.get("/readyz"))[0] == 200

        return await self._until(ready, timeout_s, "ready")

    async def until_unready(self, client: Client, timeout_s: float = 30.0) -> float:
        """Seconds until `/readyz` says it isn't. Raises BenchError."""

        async def unready() -> bool:
            return (await client.get("/readyz"))[0] == 503

        return await self._until(unready, timeout_s, "unready")

    async def ready_again(self, client: Client) -> float:
        """Seconds until it has first been unready, then ready. Raises BenchError."""
        unready_s = await self.until_unready(client)
        return unready_s + await self.until_ready(client, self._place.start_timeout_s)

    async def until_idle(self, client: Client, timeout_s: float = 30.0) -> None:
        """Return once nothing runs and all is written. Raises BenchError."""
        busy = ("gateway_requests_running", "gateway_engine_sequences", "gateway_ledger_rows")

        async def idle() -> bool:
            found = await self.metrics(client)
            return bool(found) and not any(
                value for name, value in found.items() if name.startswith(busy)
            )

        await self._until(idle, timeout_s, "idle")

    async def metrics(self, client: Client) -> dict[str, float]:
        """The gateway's own series by name, summed over labels, and once more by `name route` where
        they have one; empty where it doesn't answer."""
        status, text = await client.get("/metrics")
        found: dict[str, float] = {}
        if status == 200:
            ours = "".join(line for line in text.splitlines(True) if "gateway_" in line)
            for family in text_string_to_metric_families(ours):
                for sample in family.samples:
                    names = {sample.name, f"{sample.name} {sample.labels.get('route', '')}".strip()}
                    for name in names:
                        found[name] = found.get(name, 0.0) + sample.value
        return found

    async def rows(self) -> list[Row]:
        """The ledger, as `gateway usage --rows` tells it. Raises BenchError."""
        command = (sys.executable, "-m", "gateway", "usage", "--rows", "--config")
        child = await asyncio.create_subprocess_exec(
            *command,
            str(self._home / "gateway.yaml"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await child.communicate()
        if child.returncode:
            raise BenchError(f"gateway usage --rows: {errors.decode(errors='replace')}")
        return [msgspec.json.decode(line, type=Row) for line in output.splitlines()]

    def integrity(self) -> str:
        """What SQLite says of its file: `ok`, or what is wrong."""
        with closing(sqlite3.connect(self.database)) as opened:
            return str(opened.execute("PRAGMA integrity_check").fetchone()[0])

    def family(self) -> list[psutil.Process]:
        """Every living process below it."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def core(self) -> psutil.Process:
        """The engine's process. Raises BenchError: there is none."""
        for process in self.family():
            with suppress(psutil.Error):
                if any(_CORE in part for part in process.cmdline()):
                    return process
        raise BenchError(f"no engine core below process {self.pid}")

    def held(self) -> Held:
        """Raises OSError: it is gone."""
        temporary = self._home / "tmp"
        return held_by(self.pid, self.family(), temporary, self.database, alone=self._alone)

    async def kill(self) -> list[psutil.Process]:
        """`kill -9`, of it alone; returns what was below it."""
        family = self.family()
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()
        return family

    async def stop(self) -> int | None:
        """SIGTERM; returns the exit code. What is left then is in `left`, and killed."""
        if self._child is None:
            return None
        family = self.family()
        with suppress(ProcessLookupError, TimeoutError):
            self._child.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._child.wait(), 60)
        await self.kill()
        self.left = await gone(family, _LEFT_S)
        for process in self.left:
            with suppress(psutil.Error):
                process.kill()
        return self._child.returncode

    async def _until(
        self, holds: Callable[[], Awaitable[bool]], timeout_s: float, what: str
    ) -> float:
        begun = perf_counter()
        while not await holds():
            if perf_counter() - begun > timeout_s:
                raise BenchError(
                    f"the gateway was not {what} after {timeout_s:g} s; the end of its log:\n"
                    + self._tail()
                )
            await asyncio.sleep(_POLL_S)
        return perf_counter() - begun

    def _tail(self) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-25:])


@asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[Client]:
    """Start it, and stop it on leaving. Raises BenchError."""
    try:
        await gateway.start()
        async with gateway.client() as client:
            yield client
    finally:
        await gateway.stop()
