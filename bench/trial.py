"""One measurement of a server that is up: its report, and what the server itself used."""

from __future__ import annotations

import time
from typing import Any

from bench.cli.command import event_loop_name
from bench.client import Target, new_session
from bench.datasets import prepare
from bench.measuring.facts import client_facts, read_server
from bench.measuring.measure import Settings, Watcher, check_fits, measure
from bench.prompts.prompt import Workload
from bench.reports.report import to_record
from bench.servers.contenders import Contestant
from bench.utilization.sampling import sampled


async def prompts_for(
    server: Contestant, settings: Settings, *, model: str | None, api_key: str | None
) -> Workload:
    """What is sent, written with the tokenizer of this server. Raises BenchError."""
    async with new_session() as session:
        facts = await read_server(session, server.base_url, api_key=api_key, model=model)
        check_fits(settings, facts)
        target = Target(server.base_url, settings.endpoint, facts.model, api_key)
        return await prepare(session, target, settings, facts)


async def trial(
    server: Contestant,
    settings: Settings,
    workload: Workload,
    watcher: Watcher,
    *,
    model: str | None = None,
    api_key: str | None = None,
    idle: Contestant | None = None,
) -> dict[str, Any]:
    """The report of `bench.throughput` and beside it, where they can be seen, `utilization`,
    `server_cpu` (CPU time: seconds, milliseconds an output token) and `idle_server_cores`, which is
    what the `idle` server used meanwhile. Raises BenchError."""
    watched = (server, idle) if idle else (server,)
    before: list[tuple[float, list[float | None]]] = []
    async with new_session() as session, sampled([server.child or server.base_url]) as sampling:
        facts = await read_server(session, server.base_url, api_key=api_key, model=model)
        check_fits(settings, facts)
        found = await measure(
            session,
            Target(server.base_url, settings.endpoint, facts.model, api_key),
            settings,
            facts,
            workload,
            watcher,
            on_start=lambda: before.append((time.time(), [one.cpu_s() for one in watched])),
        )
    since, then = before[0]
    used = [_since(one.cpu_s(), start) for one, start in zip(watched, then, strict=True)]
    record = to_record(found, client_facts(event_loop_name()))
    output, duration = record["tokens"]["output"], record["duration_s"]
    record["utilization"] = sampling.summary(since)
    record["server_cpu"] = {
        "s": used[0],
        "ms_per_output_token": 1000 * used[0] / output if used[0] is not None and output else None,
    }
    if idle is not None:
        asleep = used[1]
        record["idle_server_cores"] = asleep / duration if asleep is not None and duration else None
    return record


def _since(now: float | None, then: float | None) -> float | None:
    return None if now is None or then is None else now - then
