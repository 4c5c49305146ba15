"""The chaos run finds what is wrong in a server's answers and books, and nothing where all is well.

Here against servers and books made for it; the real engine's deaths are in tests/gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from bench.chaos import __main__ as command
from bench.chaos.books import (
    COMPLETION_SERIES,
    PROMPT_SERIES,
    Row,
    check_answers,
    check_begun,
    check_rows,
    check_sums,
    engine_tokens,
)
from bench.chaos.crowd import crowd
from bench.chaos.exchange import Ask, Client, Seen, seen_as
from bench.chaos.findings import Found, spread
from bench.chaos.held import Held, held_by
from bench.chaos.server import Place
from bench.chaos.streams import streaming
from bench.chaos.traffic import Traffic
from bench.cli.command import Exit
from bench.errors import BenchError
from bench.tiny.model import TinyModel, make
from tests.bench.tiny.server import WalkServer

ASK = Ask("/v1/chat/completions", b"{}", stream=True, text="ab")
ANSWERED = Seen(
    ASK, 0.0, request_id="r1", status=200, text="ab", whole=True, usage=(3, 2), ended_at=1.0
)
REFUSED = Seen(replace(ASK, wrong=True), 0.0, request_id="r2", status=400, error="invalid_json")
HEADLESS = Seen(ASK, 0.0, cut="hung up")
ROWS = [Row("r1", "completed", 200, 3, 2), Row("r2", "rejected", 400, 0, 0, "invalid_json")]
SEEN = [ANSWERED, REFUSED, HEADLESS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make(tmp_path_factory.mktemp("model"))


def violated(check: Callable[[Found], None]) -> str:
    found = Found("test")
    check(found)
    return "; ".join(found.violations)


@pytest.mark.parametrize("more", [[], [Row("r3", "cancelled", 499, 1, 1)]])
def test_books_that_add_up_are_not_complained_about(more: list[Row]) -> None:
    rows = ROWS + more
    assert not violated(lambda found: check_rows(found, SEEN, rows))
    assert not violated(lambda found: check_answers(found, SEEN))
    sums = 3 + len(more), 2 + len(more)
    assert not violated(lambda found: check_sums(found, rows, sums, sums))


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (ROWS[:1], "requests without a row: 1 (r2)"),
        ([*ROWS, ROWS[0]], "ids with several rows: 1 (r1)"),
        ([*ROWS, *(Row(f"x{one}", "cancelled", 499, 0, 0) for one in range(2))], "rows of nobody"),
        ([Row("r1", "cancelled", 499, 3, 2), ROWS[1]], "row isn't completed"),
        ([Row("r1", "completed", 200, 3, 1), ROWS[1]], "(3, 2) told, (3, 1) kept"),
        ([ROWS[0], Row("r2", "failed", 500, 0, 0)], "whose row says something else"),
        ([ROWS[0], Row("r2", "rejected", 400, 9, 0)], "refused requests with tokens"),
    ],
)
def test_each_wrong_row_is_named(rows: list[Row], complaint: str) -> None:
    assert complaint in violated(lambda found: check_rows(found, SEEN, rows))


@pytest.mark.parametrize(
    ("one", "complaint"),
    [
        (replace(ANSWERED, text="abc"), "answers with the wrong text"),
        (replace(ANSWERED, error="engine_dead"), "errors that end as answers"),
        (replace(REFUSED, status=200, error=""), "weren't refused"),
        (replace(REFUSED, status=500, error="internal"), "weren't refused"),
    ],
)
def test_each_wrong_answer_is_named(one: Seen, complaint: str) -> None:
    assert complaint in violated(lambda found: check_answers(found, [one]))


@pytest.mark.parametrize(
    ("summed", "engines", "complaint"),
    [
        ((3, 2), (3, 3), "the engines counted (3, 3)"),
        ((4, 2), (3, 2), "/admin/v1/usage says (4, 2)"),
        ((3, 2), None, "aren't shown"),
    ],
)
def test_each_other_sum_is_named(
    summed: tuple[int, int], engines: tuple[int, int] | None, complaint: str
) -> None:
    assert complaint in violated(lambda found: check_sums(found, ROWS, summed, engines))


def test_requests_that_were_begun_but_have_no_row_are_named() -> None:
    series = {"gateway_http_requests_total": 9.0, "gateway_http_requests_total /readyz": 7.0}
    begun = "gateway_http_requests_total /v1/chat/completions"
    assert not violated(lambda found: check_begun(found, ROWS, {**series, begun: 2.0}))
    assert "3 requests were begun, 2 have rows" in violated(
        lambda found: check_begun(found, ROWS, {**series, begun: 3.0})
    )


def test_the_engines_counts_are_taken_from_their_series_alone() -> None:
    assert engine_tokens({PROMPT_SERIES: 5.0, COMPLETION_SERIES: 7.0}) == (5, 7)
    assert engine_tokens({"gateway_prompt_tokens_total": 5.0, COMPLETION_SERIES: 7.0}) is None


def test_only_a_few_of_many_wrong_ones_are_shown() -> None:
    assert violated(lambda found: found.none_of(range(9), "wrong")) == (
        "wrong: 9 (0, 1, 2, 3, 4, …)"
    )
    assert spread([]) is None
    assert spread([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}


def test_what_is_held_beyond_before_is_named_by_its_kind() -> None:
    before = Held(Counter("a"), Counter({"pipe": 2}), Counter(), Counter())
    after = Held(Counter("a"), Counter({"pipe": 2, "socket": 1}), Counter(), Counter())
    assert after.beyond(before) == ["descriptors: 2 → 3, {'socket': 1}"]
    assert before.beyond(after) == []


def test_an_open_file_is_held_but_not_the_pooled_connections_to_the_database(
    tmp_path: Path,
) -> None:
    def now() -> Held:
        return held_by(os.getpid(), [], tmp_path, tmp_path / "state.db", alone=False)

    before = now()
    with (tmp_path / "state.db-wal").open("w"):
        assert now().descriptors == before.descriptors
    with (tmp_path / "left").open("w"):
        assert (now().descriptors - before.descriptors).total() == 1
    assert len(now().beyond(before)) == 1
    assert now().files.total() == 2


def test_the_same_seed_asks_the_same_of_every_kind(model: TinyModel) -> None:
    def drawn(seed: int) -> list[Ask]:
        traffic = Traffic(model, seed)
        return [traffic.draw() for _ in range(300)]

    asks = drawn(1)
    assert asks == drawn(1) != drawn(2)
    for kind in ("stream", "hang_up_s", "stall_s", "wrong", "text"):
        assert 0 < sum(bool(getattr(ask, kind)) for ask in asks) < len(asks)


async def test_right_answers_of_every_kind_are_taken_for_right(model: TinyModel) -> None:
    traffic, seen = Traffic(model, 3), list[Seen]()
    asks = [ask for _ in range(150) if (ask := traffic.draw()).text is not None]
    patient = [replace(ask, hang_up_s=None, stall_s=0.0) for ask in asks]
    async with TestServer(WalkServer(model).app) as server, Client(_url(server)) as client:
        await crowd(client, iter([*patient, traffic.long(50)]), 8, seen.append)
    assert seen_as(seen) == {"answered": len(patient) + 1}
    assert not any(one.altered for one in seen)
    assert all(one.usage for one in seen)


async def served(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], ask: Ask = ASK
) -> Seen:
    """What a client sees of such an answer."""
    app = web.Application()
    app.router.add_post(ask.path, answer)
    async with TestServer(app) as server, Client(_url(server)) as client:
        return await client.ask(ask)


def _url(server: BaseTestServer) -> str:
    return str(server.make_url("")).rstrip("/")


def _streamed(*events: Any, end: bool) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if end:
            await response.write(b"data: [DONE]\n\n")
        return response

    return answer


PIECE = {"choices": [{"index": 0, "delta": {"content": "ab"}}]}
ERROR = {"error": {"code": "engine_dead", "type": "server_error"}}


@pytest.mark.parametrize(
    ("events", "end", "kind"),
    [
        ([PIECE], True, "answered"),
        ([PIECE], False, "cut off"),
        ([PIECE, ERROR], False, "engine_dead"),
        ([PIECE, ERROR], True, "engine_dead"),
    ],
)
async def test_the_end_of_a_stream_is_seen_as_it_is(
    events: list[Any], end: bool, kind: str
) -> None:
    one = await served(_streamed(*events, end=end))
    assert seen_as([one]) == {kind: 1}
    assert (one.text, one.whole, one.answered) == ("ab", end, kind == "answered")


async def test_who_hangs_up_knows_the_id_where_the_head_had_come() -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream", "x-request-id": "r9"}
        )
        await response.prepare(request)
        await asyncio.sleep(3600)
        return response

    one = await served(never, replace(ASK, hang_up_s=0.2))
    assert (one.request_id, one.cut, seen_as([one])) == ("r9", "hung up", {"hung up": 1})


async def test_refused_clients_wait_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.json_response(ERROR, status=503, headers={"retry-after": "7"})

    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    app, seen = web.Application(), list[Seen]()
    app.router.add_post(ASK.path, refuse)
    async with TestServer(app) as server, Client(_url(server)) as client:
        monkeypatch.setattr("bench.chaos.crowd.asyncio.sleep", sleep)
        await crowd(client, repeat(ASK, 2), 1, seen.append)
        monkeypatch.undo()
    assert [one.error for one in seen] == ["engine_dead"] * 2
    assert waits == [7.0, 7.0]


async def test_streams_have_begun_with_their_first_event_and_end(model: TinyModel) -> None:
    traffic = Traffic(model, 0)
    async with TestServer(WalkServer(model).app) as server, Client(_url(server)) as client:
        with streaming(client, [traffic.long(20), traffic.long(30)]) as streams:
            await streams.begun()
            assert all(one.first_at for one in streams.seen)
            await streams.ended()
    assert all(one.answered and not one.altered for one in streams.seen)


@pytest.mark.parametrize("violations", [[], ["no row"]])
def test_a_violation_is_shown_written_and_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    violations: list[str],
) -> None:
    async def part(_place: Place, _args: Any, _told: Any) -> Found:
        return Found("freeze", {"times": 1}, list(violations))

    async def unfinished(_place: Place, _args: Any, _told: Any) -> Found:
        raise BenchError("no answer")

    monkeypatch.setitem(command.PARTS, "freeze", part)
    monkeypatch.setitem(command.PARTS, "disk", unfinished)
    file = tmp_path / "chaos.json"
    assert command.main(["freeze", "--json", str(file)]) == (
        Exit.FAILED_REQUESTS if violations else Exit.OK
    )
    record = json.loads(file.read_text())
    assert record["held"] == (not violations)
    assert [one["violations"] for one in record["parts"]] == [violations]
    shown = capsys.readouterr().err
    assert all(violation in shown for violation in violations)
    assert command.main(["disk", "freeze"]) == Exit.FAILED_REQUESTS
    assert "not finished: no answer" in capsys.readouterr().err


def test_a_gateway_that_is_killed_under_load_keeps_its_books(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    few = ["--simulated", "--kills", "1", "--concurrency", "8"]
    code = command.main(["crashes", *few, "--json", str(file)])
    (found,) = json.loads(file.read_text())["parts"]
    assert (found["violations"], code) == ([], Exit.OK)
    assert found["figures"]["seen"]["answered"]
    assert found["figures"]["kills"] == 1


def test_a_file_that_cannot_be_written_is_told_before_anything_is_broken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["freeze", "--json", "/nowhere/chaos.json"]) == Exit.UNUSABLE
    assert "--json /nowhere/chaos.json: there is no directory" in capsys.readouterr().err


def test_an_unknown_part_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["everything"])
    assert ended.value.code == Exit.UNUSABLE
