from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench.client import Failure, Outcome, Sample, Target
from bench.errors import BenchError
from bench.facts import ServerFacts, client_facts, read_server
from bench.fake import Script
from bench.loop import LoopResult, closed_loop
from bench.measure import Measurement, Settings, check_fits, measure
from bench.report import any_failed, to_record
from bench.workload import build_workload
from tests.bench.conftest import StartFake

SCHEMA = json.loads((Path(bench.__file__).parent / "throughput.schema.json").read_text("utf-8"))
SERVER = ServerFacts("http://localhost/v1", "m", {"id": "m"}, None, None, None)
SAMPLE = Sample(128, 128, None, ttft_s=0.5, e2el_s=2.0, gaps_s=(0.5, 1.0), content_chunks=3)


class Deaf:
    """A watcher that only counts."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.outcomes: list[Outcome] = []

    def begin(self, phase: str, total: int) -> None:
        self.phases.append((phase, total))

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


async def run(
    session: aiohttp.ClientSession, url: str, settings: Settings, watcher: Deaf | None = None
) -> Measurement:
    server = await read_server(session, url, api_key=None, model=None)
    target = Target(url, settings.endpoint, server.model)
    workload = await build_workload(
        session,
        target,
        input_tokens=settings.input_tokens,
        count=settings.warmup + settings.requests,
        seed=settings.seed,
    )
    return await measure(session, target, settings, server, workload, watcher or Deaf())


def report(
    outcomes: list[Outcome], *, duration_s: float = 4.0, warmup: list[Outcome] | None = None
) -> dict[str, Any]:
    measured = LoopResult(outcomes=outcomes, duration_s=duration_s, peak=2, busy_s=6.0)
    found = Measurement(
        settings=Settings(),
        server=SERVER,
        layout="user",
        counted_by="tokenize",
        started_at=datetime(2030, 1, 1, tzinfo=UTC),
        warmup=LoopResult(outcomes=warmup or []),
        measured=measured,
        client_cpu_s=0.5,
    )
    record = to_record(found, client_facts("asyncio"))
    jsonschema.validate(record, SCHEMA)
    return record


async def test_the_concurrency_is_reached_and_never_exceeded(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    # No request of a wave is answered before all of its wave have arrived: a client below the
    # concurrency would wait for ever, one above it would show in the peak.
    waves = asyncio.Barrier(6)

    async def gate() -> None:
        await waves.wait()

    script = Script(tokenizer=True)
    fake, url = await start_fake(script)
    script.gate = gate
    settings = Settings(concurrency=6, requests=24, warmup=6, output_tokens=4)

    async with asyncio.timeout(60):
        found = await run(session, url, settings)

    assert fake.seen.peak == 6
    assert found.measured.peak == 6
    assert [type(outcome) for outcome in found.measured.outcomes] == [Sample] * 24


async def test_an_answer_makes_room_for_the_next_request_at_once() -> None:
    started: list[bytes] = []
    finish = {name: asyncio.Event() for name in (b"a", b"b", b"c")}
    begun = asyncio.Condition()

    async def send(body: bytes) -> Outcome:
        async with begun:
            started.append(body)
            begun.notify_all()
        await finish[body].wait()
        return SAMPLE

    async def until(count: int) -> None:
        async with begun:
            await begun.wait_for(lambda: len(started) == count)

    loop = asyncio.create_task(
        closed_loop([b"a", b"b", b"c"], concurrency=2, send=send, on_outcome=lambda _: None)
    )
    await until(2)
    assert started == [b"a", b"b"]
    finish[b"b"].set()
    await until(3)
    finish[b"a"].set()
    finish[b"c"].set()
    result = await loop

    assert (len(result.outcomes), result.peak, result.interrupted) == (3, 2, False)


@given(st.integers(1, 9), st.integers(0, 30))
def test_every_body_is_sent_once_and_the_bound_holds(concurrency: int, count: int) -> None:
    sent: list[bytes] = []
    running = peak = 0

    async def send(body: bytes) -> Outcome:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        sent.append(body)
        for _ in range(body[0] % 4):
            await asyncio.sleep(0)
        running -= 1
        return SAMPLE

    bodies = [bytes([number]) for number in range(count)]
    result = asyncio.run(
        closed_loop(bodies, concurrency=concurrency, send=send, on_outcome=lambda _: None)
    )

    assert sorted(sent) == bodies
    assert peak == result.peak <= concurrency
    assert len(result.outcomes) == count


async def test_an_interrupted_loop_keeps_what_had_finished() -> None:
    stuck = asyncio.Event()

    async def send(body: bytes) -> Outcome:
        if body == b"slow":
            stuck.set()
            await asyncio.Event().wait()
        return SAMPLE

    loop = asyncio.create_task(
        closed_loop([b"x", b"x", b"slow"], concurrency=1, send=send, on_outcome=lambda _: None)
    )
    await stuck.wait()
    loop.cancel()
    result = await loop

    assert result.interrupted
    assert (len(result.outcomes), result.abandoned) == (2, 1)


async def test_warm_up_requests_are_sent_first_and_not_measured(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script(fault=lambda number: "500" if number <= 5 else None))
    settings = Settings(concurrency=2, requests=8, warmup=5, output_tokens=4)
    watcher = Deaf()

    found = await run(session, url, settings, watcher)
    record = to_record(found, client_facts("asyncio"))

    assert watcher.phases == [("warm-up", 5), ("measuring", 8)]
    assert len(watcher.outcomes) == len(fake.seen.bodies) == 13
    assert record["requests"]["warmup_failed"] == 5
    assert (record["requests"]["succeeded"], record["requests"]["failed"]) == (8, 0)
    assert record["tokens"] == {
        "input": 8 * 128,
        "output": 8 * 4,
        "input_cached": None,
        "per_chunk": 1.0,
    }
    assert any_failed(record)
    jsonschema.validate(record, SCHEMA)


async def test_no_prompt_is_sent_twice(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script())

    await run(session, url, Settings(concurrency=4, requests=16, warmup=4, output_tokens=2))

    assert len({json.dumps(body["messages"]) for body in fake.seen.bodies}) == 20


def test_throughput_is_tokens_of_successes_over_the_whole_duration() -> None:
    record = report([SAMPLE, SAMPLE, Failure("http_500", "broken", 1.0)])

    assert record["throughput"] == {
        "total_tokens_per_s": 2 * 256 / 4,
        "output_tokens_per_s": 2 * 128 / 4,
        "input_tokens_per_s": 2 * 128 / 4,
        "requests_per_s": 2 / 4,
    }
    assert record["requests"]["in_flight_mean"] == 1.5
    assert record["tokens"]["per_chunk"] == 256 / 6
    assert record["client"]["cpu_share_of_one_core"] == 0.125
    assert any_failed(record)


def test_latencies_are_in_milliseconds() -> None:
    latency = report([SAMPLE])["latency_ms"]

    assert latency["ttft"]["p50"] == pytest.approx(500)
    assert latency["e2el"]["p99"] == pytest.approx(2000)
    assert latency["tpot"]["mean"] == pytest.approx(1500 / 127)
    assert (latency["itl"]["count"], latency["itl"]["mean"]) == (2, pytest.approx(750))


def test_what_was_not_measured_is_null() -> None:
    record = report([Sample(128, 128, 64, ttft_s=None, e2el_s=1.0)])

    assert record["latency_ms"]["ttft"] is None
    assert record["latency_ms"]["itl"] is None
    assert record["tokens"]["input_cached"] == 64


def test_failures_are_counted_by_kind_with_the_first_as_example() -> None:
    record = report(
        [Failure("timeout", "first", 1.0), SAMPLE, Failure("timeout", "second", 1.0)],
        warmup=[Failure("http_503", "busy", 1.0)],
    )

    assert record["failures"] == {
        "timeout": {"count": 2, "example": "first"},
        "http_503": {"count": 1, "example": "busy"},
    }


def test_a_report_of_nothing_is_still_a_report() -> None:
    record = report([], duration_s=0.0)

    assert record["throughput"]["total_tokens_per_s"] == 0
    assert record["client"]["cpu_us_per_output_token"] is None
    assert not any_failed(record)


async def test_the_server_is_asked_what_it_is(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script(models=("first", "second"), max_model_len=255))

    server = await read_server(session, url, api_key=None, model=None)

    assert (server.model, server.version, server.max_model_len) == ("first", "1.2.3", 255)
    assert server.header is not None
    with pytest.raises(BenchError, match="don't fit the 255 tokens"):
        check_fits(Settings(), server)
    chosen = await read_server(session, url, api_key=None, model="second")
    assert chosen.model == "second"
