from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from math import inf
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from bench import overload
from bench.cli.command import Exit
from bench.client import Target
from bench.fake import MODEL, FakeServer, Script
from bench.measuring.facts import ServerFacts
from bench.prompts.workload import Vocabulary
from bench.tenancy.crowd import Crowd, Shape, Tenant, Writer
from bench.tenancy.phases import Stage
from bench.tenancy.servers import Subject
from bench.tenancy.storm import Load, Point, Slo, Storm, storm
from bench.tenancy.storm_report import storm_record, storm_svg, to_markdown
from tests.bench.tenancy_server import SeatServer
from tests.bench.test_throughput import started

SERVER = "{python} -m tests.bench.tenancy_server --port {port} --places 4"
VOCABULARY = Vocabulary(("the", "of", "and", "to"), overhead=1, layout="text")
EASY = Slo(60.0, 60.0)


async def stormed(
    session: aiohttp.ClientSession,
    fake: FakeServer,
    load: Load,
    slo: Slo = EASY,
    recovery_s: float = 20.0,
    phases: list[str] | None = None,
) -> tuple[Storm, list[str]]:
    """What the server did, and the phases that were told."""
    phases = [] if phases is None else phases
    async with TestServer(fake.app) as server:
        url = str(server.make_url("/v1"))
        target = Target(url, "completions", MODEL)
        facts = ServerFacts(url, MODEL, {}, None, None, None)
        subject = Subject("mine", target, facts, VOCABULARY, None, "admin")
        found = await storm(
            Stage(session, subject, Shape(16, 4), seed=0),
            Tenant("load"),
            2,
            0.5,
            load,
            slo,
            recovery_s,
            lambda phase, _seconds: phases.append(phase),
            lambda _attempt: None,
        )
    return found, phases


def quick(places: int) -> SeatServer:
    advice = {"retry-after-ms": "5"}
    return SeatServer(Script(token_delay_s=0.002), seats=2, places=places, advice=advice)


async def test_a_bounded_server_refuses_keeps_answering_and_comes_back(
    session: aiohttp.ClientSession,
) -> None:
    load = Load(times=8.0, seconds=1.0, retries=1, closed=False)

    found, phases = await stormed(session, quick(places=2), load)

    assert phases == ["warm-up", "peak", "overload", "recovery"]
    assert found.refused == len(found.reject_s) > 0
    assert found.answered > 0
    assert found.good_per_s > 0
    assert found.sent == found.answered + found.refused
    assert found.first_retries > 0
    assert set(found.advice_s) == {0.005}
    assert found.recovered_s is not None
    assert found.faults == []
    assert found.unanswered == 0
    assert found.rss_growth_mib is None


def hanging(most: float) -> SeatServer:
    """Of the requests that find four others, so many are never answered."""
    hung = 0

    def fault(_number: int) -> str | None:
        nonlocal hung
        if fake.seen.in_flight < 4 or hung >= most:
            return None
        hung += 1
        return "hang"

    fake = SeatServer(Script(token_delay_s=0.002, fault=fault), seats=1_000)
    return fake


async def test_a_server_that_stops_to_answer_has_failed(session: aiohttp.ClientSession) -> None:
    load = Load(times=8.0, seconds=0.5, retries=0, closed=True)

    found, _ = await stormed(session, hanging(inf), load, recovery_s=1.0)

    assert found.recovered_s is None
    assert found.left_waiting == found.unanswered == len(found.faults) == 16
    assert found.sent == found.answered + found.unanswered
    assert found.places == found.answered  # nobody knows whether the others were let in
    assert found.ttft_s[-16] >= 1.0


async def test_requests_that_a_server_forgot_are_failures_though_it_is_back(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tenancy.storm._FINISH_S", 0.3)
    # As where it took so long that others were served late.
    monkeypatch.setattr("bench.tenancy.storm._moves", lambda _crowd, _since: True)
    load = Load(times=8.0, seconds=0.5, retries=0, closed=True)

    found, _ = await stormed(session, hanging(3), load)

    assert found.recovered_s is not None
    assert found.unanswered == len(found.faults) == 3


async def test_a_queue_that_still_moves_is_late_and_has_not_failed(
    session: aiohttp.ClientSession,
) -> None:
    load = Load(times=10.0, seconds=0.5, retries=0, closed=False)
    slow = SeatServer(Script(token_delay_s=0.02), seats=2)

    found, _ = await stormed(session, slow, load, recovery_s=0.6)

    assert found.recovered_s is None
    assert found.unanswered > 0
    assert found.sent == found.answered + found.unanswered
    assert found.faults == []


@pytest.mark.parametrize("phase", ["warm-up", "peak", "overload", "recovery"])
async def test_what_fails_in_any_phase_is_told(session: aiohttp.ClientSession, phase: str) -> None:
    phases: list[str] = []
    failed: list[int] = []

    def fault(number: int) -> str | None:
        if phases[-1] != phase or failed:
            return None
        failed.append(number)
        return "500"

    load = Load(times=2.0, seconds=0.3, retries=0, closed=True)

    found, _ = await stormed(
        session, SeatServer(Script(fault, token_delay_s=0.002)), load, phases=phases
    )

    assert len(found.faults) == 1
    assert "HTTP 500" in found.faults[0]


async def test_what_is_late_is_not_good(session: aiohttp.ClientSession) -> None:
    load = Load(times=2.0, seconds=0.3, retries=0, closed=False)

    found, _ = await stormed(session, quick(places=100), load, Slo(60.0, 0.000_001))

    assert found.answered > 0
    assert (found.good_per_s, found.peak_good_per_s) == (0, 0)


async def test_clients_that_wait_their_turn_send_nothing_meanwhile(
    session: aiohttp.ClientSession,
) -> None:
    fake = SeatServer(
        Script(token_delay_s=0.002), seats=2, places=0, advice={"retry-after": "3600"}
    )
    load = Load(times=5.0, seconds=0.5, retries=3, closed=True)

    found, _ = await stormed(session, fake, load)

    # Two of ten find a seat again and again, eight are told to stay away.
    assert found.gave_up == found.refused == 8
    assert found.first_retries == 0
    assert found.first_retry_share is None
    assert found.recovered_s is not None


async def test_clients_come_one_after_the_other_within_the_ramp(
    session: aiohttp.ClientSession,
) -> None:
    # None of them is answered, so each asks once.
    fake = SeatServer(Script(), seats=0)
    async with TestServer(fake.app) as server:
        target = Target(str(server.make_url("/v1")), "completions", MODEL)
        crowd = Crowd(session, target.url, Writer(target, VOCABULARY, Shape(16, 4), seed=0))
        await crowd.keep(Tenant("load"), 5, 0.5, ramp_s=0.5)
        await crowd.finish(within_s=0)

    begun = sorted(one.sent_at - crowd.started_at for one in crowd.attempts)
    assert len(begun) == 5
    assert all(at >= number * 0.1 for number, at in enumerate(begun))


async def test_who_is_refused_after_giving_up_does_not_come_back(
    session: aiohttp.ClientSession,
) -> None:
    fake = SeatServer(Script(), seats=0, places=0, advice={"retry-after-ms": "1"})
    async with TestServer(fake.app) as server:
        target = Target(str(server.make_url("/v1")), "completions", MODEL)
        crowd = Crowd(session, target.url, Writer(target, VOCABULARY, Shape(16, 4), seed=0))
        # All are on their way, none has been refused.
        await crowd.keep(Tenant("load"), 4, 0.0001, retries=5)
        crowd.give_up()
        await crowd.finish()
    assert len(crowd.attempts) == len(fake.callers) == 4


def test_a_key_in_a_url_is_refused_beside_the_admins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = overload.main(["--server", "x=http://me:pw@127.0.0.1:1/v1", "--tiny"])
    assert code == Exit.UNUSABLE
    told = capsys.readouterr().err
    assert "leave out what is before the host" in told
    assert "pw" not in told


async def test_refusals_without_advice_are_counted(session: aiohttp.ClientSession) -> None:
    fake = SeatServer(Script(token_delay_s=0.002), seats=2, places=0)
    load = Load(times=5.0, seconds=0.3, retries=0, closed=False)

    found, _ = await stormed(session, fake, load)

    assert found.unadvised == found.refused > 0


def example(**more: object) -> Storm:
    storm = Storm(capacity_per_s=10.0, peak_good_per_s=8.0, calm_ttft_s=0.1)
    values: dict[str, object] = {
        "good_per_s": 6.0,
        "places": 30,
        "first_retries": 40,
        "first_kept": 20,
        "reject_s": [0.001, 0.002],
        "client_lag_s": [0.0],
        "recovery_s": 60.0,
        "course": [Point(0.5, 1.0, 2.0, 100.0), Point(1.0, 3.0, 4.0, None)],
    }
    for name, value in (values | more).items():
        setattr(storm, name, value)
    return storm


def test_the_table_says_what_was_kept_up_and_what_was_possible() -> None:
    text = to_markdown({"ours": example(), "theirs": example(faults=["HTTP 500: oops"])})

    assert "| goodput under overload (of peak) | 6.00 (75%) | 6.00 (75%) |" in text
    assert "| let in then | 50% | 50% |" in text
    assert "| possible at most | 75% | 75% |" in text
    assert "| back to normal after, s | not within 60 | not within 60 |" in text
    assert "1 requests failed, the first: theirs: HTTP 500: oops" in text


def test_the_record_holds_percentiles_and_the_picture_is_well_formed() -> None:
    found = {"ours": example()}

    record = json.loads(json.dumps(storm_record(found)))

    assert record["ours"]["reject_s"]["p50"] == pytest.approx(0.0015)
    assert record["ours"]["ttft_s"] is None
    assert len(record["ours"]["course"]) == 2
    ET.fromstring(storm_svg(found))


@pytest.mark.parametrize(("fault", "code"), [("", Exit.OK), ("cut", Exit.FAILED_REQUESTS)])
async def test_the_command_measures_a_server_and_says_whether_answers_failed(
    tmp_path: Path, fault: str, code: Exit
) -> None:
    file = tmp_path / "found.json"

    child = await started(
        *("--server", f"mine=env A_KEY=s3cret {SERVER} --fault '{fault}'"),
        *("--seconds", "1", "--times", "2", "--admin-key", "s3cret"),
        *("--peak-seconds", "0.5", "--retries", "0", "--json", str(file)),
        module="bench.overload",
    )
    out, err = await child.communicate()

    assert child.returncode == code, err.decode()
    assert "| goodput under overload (of peak) |" in out.decode()
    record = json.loads(file.read_text())
    assert record["found"]["mine"]["rss_growth_mib"] is not None
    assert "A_KEY=REDACTED" in record["servers"]["mine"]["command"]
    assert "s3cret" not in file.read_text()


def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert overload.main(["--server", "x=y"]) == Exit.UNUSABLE
    assert "{port}" in capsys.readouterr().err
