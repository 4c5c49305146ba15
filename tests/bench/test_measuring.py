from __future__ import annotations

import asyncio
import io
import json
import math
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import jsonschema  # type: ignore[import-untyped]
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console

import bench
from bench.client import Failure, Outcome, Sample, Target
from bench.datasets import prepare
from bench.errors import BenchError
from bench.fake import Script
from bench.measuring.facts import ServerFacts, client_facts, read_server
from bench.measuring.lag import loop_lag
from bench.measuring.loop import LoopResult, Sent
from bench.measuring.measure import Measurement, Settings, check_fits, measure
from bench.measuring.settings import Dataset
from bench.measuring.slo import Slo
from bench.prompts.counting import find_counter
from bench.prompts.lengths import Lengths
from bench.prompts.prompt import Workload
from bench.reports.report import any_failed, print_report, to_record, write_json
from bench.servers.server import free_port
from tests.bench.conftest import StartFake

SCHEMA = json.loads((Path(bench.__file__).parent / "throughput.schema.json").read_text("utf-8"))
SETTINGS = Settings()
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
    workload = await prepare(session, target, settings, server)
    return await measure(session, target, settings, server, workload, watcher or Deaf())


def sent(outcomes: list[Outcome], late_s: float = 0.0) -> list[Sent]:
    return [Sent(number, outcome, late_s) for number, outcome in enumerate(outcomes)]


def report(
    outcomes: list[Outcome],
    *,
    duration_s: float = 4.0,
    warmup: list[Outcome] | None = None,
    settings: Settings = SETTINGS,
    urls: tuple[str, ...] = ("http://localhost/v1",),
    late_s: float = 0.0,
    unsent: int = 0,
    client_cpu_s: float = 0.5,
    loop_lag_s: tuple[float, ...] = (),
) -> dict[str, Any]:
    measured = LoopResult(sent(outcomes, late_s), duration_s=duration_s, peak=2, busy_s=6.0)
    measured.unsent = unsent
    found = Measurement(
        settings=settings,
        server=SERVER,
        targets=tuple(Target(url, "chat", "m") for url in urls),
        workload=Workload(lambda _: iter(()), "user", "tokenize"),
        started_at=datetime(2030, 1, 1, tzinfo=UTC),
        warmup=LoopResult(sent(warmup or [])),
        measured=measured,
        client_cpu_s=client_cpu_s,
        loop_lag_s=loop_lag_s,
    )
    record = to_record(found, client_facts("asyncio"))
    jsonschema.validate(record, SCHEMA)
    return record


def printed(record: dict[str, Any]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(record, console)
    return console.export_text()


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
    tokens = record["tokens"]
    assert (tokens["input"], tokens["output"]) == (8 * 128, 8 * 4)
    assert (tokens["input_cached"], tokens["per_chunk"]) == (None, 1.0)
    assert tokens["input_per_request"]["p99"] == 128
    assert any_failed(record)
    jsonschema.validate(record, SCHEMA)


async def test_any_settings_can_be_given_a_rate_or_another_concurrency(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script())
    settings = Settings(concurrency=2, requests=6, warmup=2, output_tokens=4)

    for changed in (
        replace(settings, concurrency=3),
        replace(settings, rate=200.0),
        replace(settings, rate=200.0, arrivals="ramp", rate_end=400.0),
        replace(settings, rate=200.0, duration_s=0.05),
        replace(settings, duration_s=0.05),
    ):
        record = to_record(await run(session, url, changed), client_facts("asyncio"))
        jsonschema.validate(record, SCHEMA)
        assert record["requests"]["failed"] == 0
        assert (record["open_loop"] is None) == (changed.rate is None)
        if changed.duration_s is None:
            assert record["requests"]["succeeded"] == 6


async def test_an_open_loop_never_has_more_in_flight_than_it_may(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script(token_delay_s=0.002))
    settings = Settings(warmup=0, requests=12, output_tokens=4, rate=5000.0, max_in_flight=3)

    record = to_record(await run(session, url, settings), client_facts("asyncio"))

    assert fake.seen.peak == record["requests"]["in_flight_peak"] == 3
    assert record["open_loop"]["held_by_limit"] > 0
    assert record["open_loop"]["sent_late_ms"]["max"] > 0


async def test_servers_are_asked_in_turn_and_reported_apart(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    fake, url = await start_fake(Script())
    other, other_url = await start_fake(Script(fault=lambda number: "500"))
    settings = Settings(concurrency=2, requests=10, warmup=0, output_tokens=2)
    server = await read_server(session, url, api_key=None, model=None)
    target, second = (Target(base, "chat", server.model) for base in (url, other_url))
    workload = await prepare(session, target, settings, server)

    found = await measure(session, target, settings, server, workload, Deaf(), others=[second])
    record = to_record(found, client_facts("asyncio"))

    jsonschema.validate(record, SCHEMA)
    assert (len(fake.seen.bodies), len(other.seen.bodies)) == (5, 5)
    assert [part["base_url"] for part in record["servers"]] == [url, other_url]
    assert record["servers"][0]["requests"] == {"succeeded": 5, "failed": 0}
    assert record["servers"][1]["requests"] == {"succeeded": 0, "failed": 5}
    assert record["servers"][1]["latency_ms"]["ttft"] is None


async def test_a_workload_of_another_dataset_is_refused(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script())
    server = await read_server(session, url, api_key=None, model=None)
    target = Target(url, "chat", server.model)
    workload = await prepare(session, target, Settings(), server)
    turns = replace(Settings(), dataset=Dataset("multi-turn"))

    with pytest.raises(BenchError, match="--dataset multi-turn"):
        await measure(session, target, turns, server, workload, Deaf())


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


def test_goodput_is_of_the_requests_that_meet_every_objective() -> None:
    slow = replace(SAMPLE, ttft_s=0.9)
    settings = Settings(slo=Slo(ttft_ms=600, e2el_ms=2500))

    found = report([SAMPLE, slow, SAMPLE, Failure("timeout", "late", 9.0)], settings=settings)

    assert found["goodput"] == {
        "met": 2,
        "share": 0.5,
        "requests_per_s": 2 / 4,
        "output_tokens_per_s": 2 * 128 / 4,
        "total_tokens_per_s": 2 * 256 / 4,
    }
    assert report([SAMPLE])["goodput"] is None


def test_who_was_sent_late_waited_from_when_it_was_due() -> None:
    settings = Settings(rate=1.0, slo=Slo(ttft_ms=600))

    on_time = report([SAMPLE], settings=settings)
    late = report([SAMPLE], settings=settings, late_s=0.2, unsent=3)

    assert on_time["goodput"]["share"] == 1.0
    assert late["goodput"]["share"] == 0.0
    assert late["latency_ms"]["ttft"]["p50"] == pytest.approx(500)
    assert late["open_loop"]["latency_from_due_ms"]["ttft"]["p50"] == pytest.approx(700)
    assert late["open_loop"]["latency_from_due_ms"]["e2el"]["p50"] == pytest.approx(2200)
    assert late["open_loop"]["sent_late_ms"]["p50"] == pytest.approx(200)
    assert late["open_loop"]["never_sent"] == 3


def test_what_was_never_sent_met_nothing() -> None:
    settings = Settings(rate=1.0, slo=Slo(ttft_ms=600))

    assert report([SAMPLE], settings=settings, unsent=3)["goodput"]["share"] == 0.25


@pytest.mark.parametrize(
    ("cpu_s", "lag_s", "expected"), [(0.5, 0.001, False), (3.6, 0.001, True), (0.5, 0.2, True)]
)
def test_a_busy_or_late_client_may_be_the_bottleneck(
    cpu_s: float, lag_s: float, expected: bool
) -> None:
    record = report([SAMPLE], client_cpu_s=cpu_s, loop_lag_s=(lag_s,) * 10)

    assert record["client"]["may_be_bottleneck"] is expected
    assert ("The client may be the bottleneck" in printed(record)) is expected


async def test_an_event_loop_that_is_held_up_is_noticed() -> None:
    with loop_lag() as late:
        start = perf_counter()
        while perf_counter() - start < 0.1:
            pass
        while not late:
            await asyncio.sleep(0)

    assert late[0] > 0.05


def test_drawn_lengths_are_shown_as_they_were_given() -> None:
    settings = Settings(input_tokens=Lengths("uniform", 64, 256), output_tokens=8)

    record = report([SAMPLE], settings=settings)

    assert record["settings"]["input_tokens"] == "64:256"
    assert "64:256 in / 8 out" in printed(record)


def test_a_report_of_nothing_is_still_a_report() -> None:
    record = report([], duration_s=0.0)

    assert record["throughput"]["total_tokens_per_s"] == 0
    assert record["client"]["cpu_us_per_output_token"] is None
    assert not any_failed(record)


def test_more_chunks_with_text_than_tokens_are_remarked_upon() -> None:
    twice = replace(SAMPLE, completion_tokens=128, content_chunks=256)
    exact = replace(SAMPLE, completion_tokens=128, content_chunks=128)

    assert "2.00 chunks with text per token" in printed(report([twice]))
    assert "per token" not in printed(report([exact]))


def test_json_is_written_as_others_read_it(tmp_path: Path) -> None:
    file = tmp_path / "a.json"

    write_json(file, {"said": "half of a pair: \ud83d"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"ms": math.inf})

    assert json.loads(file.read_text("utf-8")) == {"said": "half of a pair: \ud83d"}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("url", ["http://[::1", "http://me:s3cret@[::1"])
async def test_what_is_no_url_is_said_without_its_password(
    session: aiohttp.ClientSession, url: str
) -> None:
    with pytest.raises(BenchError, match="not a URL") as error:
        await read_server(session, url, api_key=None, model=None)
    assert "s3cret" not in str(error.value)


async def test_a_server_that_is_not_there_is_named_without_its_password(
    session: aiohttp.ClientSession,
) -> None:
    url = f"http://me:s3cret@127.0.0.1:{free_port()}/v1"

    with pytest.raises(BenchError, match="can't be reached") as error:
        await read_server(session, url, api_key=None, model=None)
    assert "s3cret" not in str(error.value)
    with pytest.raises(BenchError, match="ClientConnectorError") as error:
        await find_counter(session, Target(url, "chat", "m"), {"prompt": "a"})
    assert "s3cret" not in str(error.value)


async def test_what_a_server_says_in_no_json_is_not_taken_for_it(
    session: aiohttp.ClientSession,
) -> None:
    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def version(_request: web.Request) -> web.Response:
        return web.Response(text='{"version": "1", "engine": {"share": NaN}}')

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.get("/version", version)])
    async with TestServer(app) as server:
        found = await read_server(session, str(server.make_url("/v1")), api_key=None, model=None)

    assert (found.model, found.version, found.engine) == ("m", None, None)


async def test_the_server_is_asked_what_it_is(
    start_fake: StartFake, session: aiohttp.ClientSession
) -> None:
    _, url = await start_fake(Script(models=("first", "second"), max_model_len=255))

    server = await read_server(session, url, api_key=None, model=None)

    assert (server.model, server.version, server.max_model_len) == ("first", "1.2.3", 255)
    assert server.header is not None
    with pytest.raises(BenchError, match="don't fit the 255 tokens"):
        check_fits(Settings(), server)
    with pytest.raises(BenchError, match="4 turns of 32 input and 32 output"):
        check_fits(
            Settings(input_tokens=32, output_tokens=32, dataset=Dataset("multi-turn")), server
        )
    chosen = await read_server(session, url, api_key=None, model="second")
    assert chosen.model == "second"
