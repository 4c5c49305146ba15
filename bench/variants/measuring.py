"""Starts the servers of a variant, measures them, stops them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.servers.server import ChildServer, free_port, running_server
from bench.utilization.sampling import sampled
from bench.variants.outside import report_of
from bench.variants.variant import MissingCheckpointError, Variant

GATEWAY = f"{shlex.quote(sys.executable)} -m gateway serve"


@dataclass(frozen=True, slots=True)
class Means:
    """What is the same for all variants. `load` are options of `bench.throughput`; `server` is a
    command that takes --config, --host, --port and --set."""

    config: Path
    checkpoints: Path
    load: Sequence[str]
    server: str = GATEWAY
    api_key: str | None = None
    start_timeout_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a variant, and what was measured. `error` says why there is no `report`;
    `skipped` where it wasn't even tried, as its checkpoint isn't there.

    `start_s` is the time from the command to ready, of the slowest of its servers.
    """

    round: int
    start_s: float | None = None
    report: dict[str, Any] | None = None
    utilization: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    error: str | None = None
    skipped: bool = False

    def to_record(self) -> dict[str, Any]:
        return asdict(self)


Say = Callable[[str], None]


async def measured(
    variant: Variant, means: Means, say: Say, *, round_number: int, quality: bool
) -> Run:
    """Never raises BenchError: what keeps a variant from being measured is its result."""
    try:
        async with _served(variant, means, say) as servers:
            started = max(server.ready_after_s for server in servers)
            say("measuring")
            urls = [part for one in servers for part in ("--base-url", one.base_url)]
            async with sampled(servers) as sampling:
                report = await report_of(
                    "bench.throughput", [*urls, "--quiet", *means.load], means.api_key
                )
            begun = datetime.fromisoformat(report["started_at"]).timestamp()
            return Run(
                round=round_number,
                start_s=started,
                report=report,
                utilization=sampling.summary(begun, begun + report["duration_s"]),
                quality=await _quality(servers[0], means, say) if quality else None,
            )
    except BenchError as error:
        skipped = isinstance(error, MissingCheckpointError)
        return Run(round=round_number, error=str(error), skipped=skipped)


async def _quality(server: ChildServer, means: Means, say: Say) -> dict[str, Any]:
    say("perplexity")
    arguments = ["--base-url", server.base_url, "--perplexity"]
    try:
        return await report_of("bench.quality", arguments, means.api_key)
    except BenchError as error:
        return {"error": str(error)}


@asynccontextmanager
async def _served(variant: Variant, means: Means, say: Say) -> AsyncIterator[list[ChildServer]]:
    """All its servers, started one after the other. Raises BenchError."""
    command = [*shlex.split(means.server), "--config", str(means.config), "--host", "127.0.0.1"]
    # What is measured leaves nothing behind where the server keeps its state.
    for assignment in ("state.url=sqlite://", *variant.assignments(means.checkpoints)):
        command += ["--set", assignment]
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(1, variant.replicas + 1):
            what = "starting" if variant.replicas == 1 else f"starting server {number}"
            port = free_port()
            servers.append(
                await stack.enter_async_context(
                    running_server(
                        [*command, "--port", str(port)],
                        port,
                        start_timeout_s=means.start_timeout_s,
                        on_wait=_seconds(say, what),
                    )
                )
            )
        yield servers


def _seconds(say: Say, what: str) -> Callable[[float], None]:
    return lambda waited: say(f"{what}: {waited:.0f} s")
