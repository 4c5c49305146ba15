from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import tenants
from bench.cli.command import Exit
from bench.client import Target
from bench.errors import BenchError
from bench.fake import MODEL, FakeServer, Script
from bench.measuring.facts import ServerFacts
from bench.prompts.counting import TokenizeCounter
from bench.prompts.workload import Vocabulary, calibrate
from bench.tenancy import phases
from bench.tenancy.attempt import Attempt, Request, attempt, retry_after
from bench.tenancy.chart import Line, Panel, to_svg
from bench.tenancy.crowd import Crowd, Shape, Tenant, Writer
from bench.tenancy.phases import Capacity, Quiet, Shared, Stage, expected_shares
from bench.tenancy.report import Fairness, Round, fairness_record, fairness_svg, to_markdown
from bench.tenancy.servers import Subject
from tests.bench.conftest import StartFake
from tests.bench.tenancy_server import SeatServer
from tests.bench.test_throughput import started

ALICE, BOB = Tenant("alice", "sk-alice"), Tenant("bob", "sk-bob", weight=3.0)
SERVER = "mine={python} -m tests.bench.tenancy_server --port {port}"
VOCABULARY = Vocabulary(("the", "of", "and", "to"), overhead=1, layout="text")


def seen(tenant: str = "a", *, times: tuple[float, ...] = (1.0, 2.0), **more: object) -> Attempt:
    usual = {"prompt_tokens": 10, "completion_tokens": 4, "status": 200}
    return Attempt(tenant, sent_at=0.5, ended_at=3.0, times=times, **{**usual, **more})  # type: ignore[arg-type]


def quiet(*ttft_s: float, refused: int = 0) -> Quiet:
    return Quiet(ttft_s, refused, late=0, faults=())


def shared(tokens_per_s: float, **service: float) -> Shared:
    course = {name: [(0.0, 0.0), (1.0, value)] for name, value in service.items()}
    return Shared(service, tokens_per_s, course)


def target(url: str) -> Target:
    return Target(url, "completions", MODEL)


def subject(url: str) -> Subject:
    facts = ServerFacts(url, MODEL, {}, None, None, None)
    return Subject("mine", target(url), facts, VOCABULARY, None, "admin")


def stage(session: aiohttp.ClientSession, url: str) -> Stage:
    return Stage(session, subject(url), Shape(16, 4), seed=0)


def crowd(session: aiohttp.ClientSession, url: str) -> Crowd:
    return Crowd(session, target(url).url, Writer(target(url), VOCABULARY, Shape(16, 4), 0))


def test_service_is_the_uncached_prompt_and_twice_the_completion_within_the_time() -> None:
    one = seen(cached_tokens=6)

    assert one.service(0.0, 5.0) == 4 + 2 * 4
    assert one.service(0.0, 1.5) == 4 + 4
    assert one.service(1.5, 5.0) == 4
    assert one.tokens(0.0, 5.0) == 14
    assert seen(times=()).service(0.0, 5.0) == 0


def test_an_answer_is_good_within_both_objectives_only() -> None:
    one = seen()  # the first text after 0.5 s, the other three tokens within a second

    assert one.meets(0.5, 0.34)
    assert not one.meets(0.4, 0.34)
    assert not one.meets(0.5, 0.33)
    assert not seen(error="cut").meets(9, 9)
    assert not seen(times=()).meets(9, 9)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "9"}, 9.0),
        ({"retry-after": "Sat, 01 Jan 2028 00:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_advice_is_read_as_sdks_read_it(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


async def test_an_attempt_tells_what_came_and_what_was_refused(
    session: aiohttp.ClientSession, start_fake: StartFake
) -> None:
    faults = {2: "500", 3: "cut"}
    _, url = await start_fake(Script(fault=faults.get))
    made = crowd(session, url)

    whole, broken, cut = [await made.ask(ALICE) for _ in range(3)]

    assert whole.answered
    assert 2 <= whole.completion_tokens <= 6
    assert whole.ttft_s is not None
    assert (broken.status, broken.refused) == (500, False)
    assert broken.error is not None
    assert cut.error is not None
    nobody = await attempt(
        session,
        "http://127.0.0.1:1/v1/x",
        Request(b"{}", 4),
        tenant="a",
        api_key=None,
        timeout_s=5,
    )
    assert (nobody.status, nobody.answered) == (0, False)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no_usage", "the answer states no usage"),
        ("wrong_completion", "usage says 3 completion tokens, expected 4"),
        ("no_text", "no chunk carried any text"),
    ],
)
async def test_an_answer_that_is_not_what_was_asked_for_is_a_fault(
    session: aiohttp.ClientSession, start_fake: StartFake, fault: str, told: str
) -> None:
    _, url = await start_fake(Script(fault=lambda _number: fault))

    seen = await crowd(session, url).ask(ALICE, 4)

    assert (seen.status, seen.answered, seen.error) == (200, False, told)


async def test_a_single_token_may_have_no_text(
    session: aiohttp.ClientSession, start_fake: StartFake
) -> None:
    _, url = await start_fake(Script(fault=lambda _number: "no_text"))

    seen = await crowd(session, url).ask(ALICE, 1)

    assert (seen.answered, seen.ttft_s) == (True, None)


async def test_who_is_hung_up_on_has_waited_that_long_at_least(
    session: aiohttp.ClientSession, start_fake: StartFake
) -> None:
    _, url = await start_fake(Script(fault=lambda _number: "hang"))
    made = crowd(session, url)
    await made.keep(ALICE, 2, 0.05)

    await made.finish(within_s=0.1)

    assert [one.hung_up for one in made.attempts] == [True, True]
    for one in made.attempts:
        assert not one.answered
        assert one.ttft_s is not None
        assert one.ttft_s >= 0.1


@pytest.mark.parametrize(
    ("event", "refused"),
    [
        (b'{"error": {"message": "busy", "code": 503}}', True),
        (b'{"error": {"message": "broken", "code": 500}}', False),
        (b'{"error": "busy"}', False),
    ],
)
async def test_a_refusal_inside_of_a_stream_is_a_refusal(
    session: aiohttp.ClientSession, event: bytes, refused: bool
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: " + event + b"\n\ndata: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with TestServer(app) as server:
        seen = await crowd(session, str(server.make_url("/v1"))).ask(ALICE)

    assert (seen.refused, seen.disguised) == (refused, refused)
    assert (seen.error is None) == refused
    assert not seen.answered


async def test_no_two_requests_are_alike_and_their_answers_are_of_different_lengths(
    session: aiohttp.ClientSession, start_fake: StartFake
) -> None:
    _, url = await start_fake(Script())
    counter = TokenizeCounter(session, target(url))
    writer = Writer(target(url), await calibrate(counter, "text"), Shape(24, 8), 0)

    requests = [writer.request() for _ in range(100)]
    bodies = [json.loads(one.body) for one in requests]

    assert len({body["prompt"] for body in bodies}) == 100
    assert {body["max_tokens"] for body in bodies} == set(range(4, 13))
    assert [body["min_tokens"] for body in bodies] == [one.completion_tokens for one in requests]
    assert await counter.count({"prompt": bodies[0]["prompt"]}) == 24


async def test_arrivals_come_whatever_happens_to_them_and_are_the_same_again(
    session: aiohttp.ClientSession,
) -> None:
    server, url = await _serving(SeatServer(seats=1, places=0, advice={"retry-after-ms": "1"}))
    async with server:
        counts = []
        for _ in range(2):
            made = crowd(session, url)
            await made.arrive(ALICE, 200.0, 0.3, seed=3)
            await made.finish()
            counts.append(len(made.attempts))

    assert counts[0] == counts[1] > 20


async def test_clients_come_back_as_advised_and_say_so(session: aiohttp.ClientSession) -> None:
    fake = SeatServer(seats=0, places=0, advice={"retry-after-ms": "1"})
    server, url = await _serving(fake)
    async with server:
        made = crowd(session, url)
        await made.arrive(BOB, 100.0, 0.05, seed=1, retries=2)
        await made.finish()

    assert {one.retries for one in made.attempts} == {0, 1, 2}
    assert all(one.refused and one.retry_after_s == 0.001 for one in made.attempts)
    assert {count for _, count in fake.callers} == {"0", "1", "2"}
    assert {key for key, _ in fake.callers} == {"Bearer sk-bob"}


async def test_who_gives_up_does_not_come_back(session: aiohttp.ClientSession) -> None:
    server, url = await _serving(SeatServer(seats=0, places=0, advice={"retry-after": "3600"}))
    async with server:
        made = crowd(session, url)
        await made.arrive(BOB, 100.0, 0.1, seed=1, retries=2)
        await _until(lambda: not made.in_flight(BOB.name))
        advised = made.advised

        made.give_up()
        await made.finish()

    assert len(made.attempts) == advised > 0


async def test_each_tenant_gets_a_key_with_its_weight(session: aiohttp.ClientSession) -> None:
    fake = SeatServer()
    server, url = await _serving(fake)
    async with server:
        keys = await subject(url).tenants(session, [Tenant("alice"), BOB])

    assert [body["weight"] for body in fake.made] == [1.0, 3.0]
    assert keys["alice"].api_key == f"sk-{fake.made[0]['name']}"
    assert keys["bob"].weight == 3.0


async def test_a_server_that_makes_no_keys_serves_everybody_alike(
    session: aiohttp.ClientSession,
) -> None:
    server, url = await _serving(SeatServer(keys=False))
    async with server:
        keys = await subject(url).tenants(session, [Tenant("alice")])

    assert keys["alice"].api_key is None


async def test_a_flood_is_hung_up_on_and_the_quiet_are_heard_out(
    session: aiohttp.ClientSession,
) -> None:
    server, url = await _serving(SeatServer(Script(token_delay_s=0.002), seats=2))
    async with server:
        found = await stage(session, url).quiet(
            ALICE, 20.0, 0.5, 1, (BOB, 400.0), lambda _attempt: None
        )

    assert len(found.ttft_s) > 3
    assert found.flood_sent > found.flood_answered > 0
    assert (found.faults, found.unanswered) == ((), 0)


async def test_the_quiet_who_are_never_answered_count_with_the_time_they_waited(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "_FINISH_S", 0.3)
    monkeypatch.setattr(phases, "_CALM_S", 0.1)
    script = Script(fault=lambda number: "hang" if number % 2 else None)
    server, url = await _serving(SeatServer(script, seats=1_000, failing="alice"))
    async with server:
        found = await stage(session, url).quiet(
            ALICE, 20.0, 0.5, 1, (BOB, 20.0), lambda _attempt: None
        )

    assert found.unanswered == len(found.faults) == sum(ttft >= 0.3 for ttft in found.ttft_s) > 0
    assert "hung up" in found.faults[0]


async def test_what_fails_in_the_flood_and_while_capacity_is_measured_is_told(
    session: aiohttp.ClientSession,
) -> None:
    script = Script(fault=lambda number: "500" if number % 3 == 0 else None)
    server, url = await _serving(SeatServer(script, failing="bob"))
    async with server:
        found = await stage(session, url).quiet(
            ALICE, 20.0, 0.3, 1, (BOB, 40.0), lambda _attempt: None
        )
        capacity = await stage(session, url).capacity(BOB, 2, 0.2, lambda _attempt: None)

    assert "HTTP 500" in found.faults[0]
    assert "HTTP 500" in capacity.faults[0]


async def test_what_is_cut_off_is_no_capacity(
    session: aiohttp.ClientSession, start_fake: StartFake
) -> None:
    whole = Script(token_delay_s=0.005)
    cut = Script(token_delay_s=0.005, fault=lambda number: "no_done" if number % 2 else None)
    found = []
    for script in (whole, cut):
        _, url = await start_fake(script)
        found.append(await stage(session, url).capacity(ALICE, 4, 0.5, lambda _attempt: None))

    assert found[1].requests_per_s < 0.75 * found[0].requests_per_s


async def test_shares_are_of_what_was_served_while_all_waited(
    session: aiohttp.ClientSession,
) -> None:
    server, url = await _serving(SeatServer(Script(token_delay_s=0.002), seats=2))
    async with server:
        found = await stage(session, url).shared([ALICE, BOB], 4, 0.6, lambda _attempt: None)

    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.tokens_per_s > 0
    assert all(course[-1][1] > course[20][1] for course in found.course.values())


async def _serving(fake: FakeServer) -> tuple[TestServer, str]:
    server = TestServer(fake.app)
    await server.start_server()
    return server, str(server.make_url("/v1"))


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def fairness() -> Fairness:
    found = Fairness(("ours", "theirs"), {"one": 1.0, "three": 3.0}, Capacity(4.0, 400.0))
    for number in (1, 2):
        found.rounds += [
            Round(
                number,
                "ours",
                quiet(0.1, 0.1),
                quiet(0.15, 0.15),
                shared(97.0, one=26.0, three=74.0),
                shared(100.0, one=1.0),
            ),
            Round(number, "theirs", quiet(0.1), quiet(2.0, refused=3)),
        ]
    return found


def test_ratios_shares_and_costs_are_told_of_all_rounds_together() -> None:
    found = fairness()

    assert found.ratio("ours", 95) == pytest.approx(1.5)
    assert found.ratio("theirs", 50) == pytest.approx(20)
    assert found.off("ours") == pytest.approx(0.04)
    cost = found.cost("ours")
    assert cost is not None
    assert cost.median == pytest.approx(0.97)
    assert found.off("theirs") is None
    assert expected_shares([ALICE, BOB]) == {"alice": 0.25, "bob": 0.75}
    text = to_markdown(found)
    assert "| ours | under flood | 150 | 150 | 1.50 |" in text
    assert "| ours | 0.260 | 0.740 | 4.0% | 0.970 (0.970 to 0.970) |" in text
    assert "is 250 ms" in text
    assert "never answered counts" not in text
    ET.fromstring(fairness_svg(found))
    json.dumps(fairness_record(found))


def test_the_report_tells_who_was_never_answered_and_what_failed_before_the_rounds() -> None:
    found = fairness()
    found.early.append("ours: HTTP 500: oops")
    faults = tuple(f"hung up {number}" for number in range(30))
    found.rounds[1].flooded = Quiet((120.0,), refused=0, late=1, faults=faults, unanswered=1)

    text = to_markdown(found)
    record = fairness_record(found)

    assert "31 requests failed, the first: ours: HTTP 500: oops" in text
    assert "never answered counts in the TTFT with the time waited" in text
    assert (record["failed"], len(record["faults"])) == (31, 20)
    flooded = record["rounds"][1]["flooded"]
    assert (flooded["failed"], len(flooded["faults"])) == (30, 20)


def test_a_chart_of_nothing_and_of_one_point_is_a_picture() -> None:
    panels = [Panel("empty", "x", []), Panel("<one>", "x", [Line("a&b", [(1.0, 1.0)])], log=True)]

    assert ET.fromstring(to_svg("t", panels)).tag.endswith("svg")


async def test_the_command_measures_a_server_and_writes_what_it_found(tmp_path: Path) -> None:
    json_file, svg_file = tmp_path / "found.json", tmp_path / "found.svg"

    child = await started(
        *("--server", SERVER.replace("=", "=env A_KEY=s3cret ", 1), "--admin-key", "s3cret"),
        *("--seconds", "0.6", "--rounds", "1", "--capacity", "30"),
        *("--json", str(json_file), "--svg", str(svg_file)),
        module="bench.tenants",
    )
    out, err = await child.communicate()

    assert child.returncode == Exit.OK, err.decode()
    assert "| mine | under flood |" in out.decode()
    record = json.loads(json_file.read_text())
    assert record["schema"] == "bench.tenants"
    assert record["servers_found"]["mine"]["ratio_p95"] > 0
    assert "A_KEY=REDACTED" in record["servers"]["mine"]["command"]
    assert "sk-" not in json_file.read_text()
    assert "s3cret" not in json_file.read_text()
    ET.fromstring(svg_file.read_text())


async def test_the_command_fails_where_only_the_warm_up_did() -> None:
    child = await started(
        *("--server", f"{SERVER} --fault 500 --failing one", "--seconds", "0.6"),
        *("--rounds", "1", "--capacity", "30", "--tests", "flood"),
        module="bench.tenants",
    )
    out, err = await child.communicate()

    assert child.returncode == Exit.FAILED_REQUESTS, err.decode()
    assert "the first: mine: HTTP 500" in out.decode()


def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert tenants.main(["--server", "mine", "--config", "configs/default.yaml"]) == Exit.UNUSABLE
    assert "expected NAME=URL or NAME=COMMAND" in capsys.readouterr().err
    assert tenants.main(["--config", "no-such-file.yaml"]) == Exit.UNUSABLE


async def test_a_server_that_answers_nothing_has_no_capacity(
    session: aiohttp.ClientSession, start_fake: StartFake
) -> None:
    _, url = await start_fake(Script(fault=lambda _number: "500"))

    with pytest.raises(BenchError, match="answered nothing: HTTP 500"):
        await stage(session, url).capacity(ALICE, 2, 0.1, lambda _attempt: None)
