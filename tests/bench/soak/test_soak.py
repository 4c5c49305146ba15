from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.errors import BenchError
from bench.load import Expected, Outcome, Request
from bench.servers.server import ChildServer, free_port
from bench.soak.fairness import METRICS, Seen, Size, crowd, ratios, watch
from bench.soak.leaks import Point, Sent, fault, leaks, load, mix, trends
from bench.soak.plot import to_svg
from bench.soak.stalled import read_late
from bench.tiny.model import TinyModel, make
from bench.utilization.process import Holdings, Memory, memory, settled
from tests.bench.test_throughput import started
from tests.bench.tiny.server import Answers, WalkServer, honest

SIZE = Size(concurrency=20, streams=60, share=0.05, stall_s=0.01)
IDLE = Holdings(10, 5, {"gateway_requests_running": 0.0})
WALKER = "walker={python} -m tests.bench.tiny.server --model {model} --port {port}"
Serve = Callable[[web.Application], Awaitable[ChildServer]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server in this process."""
    async with AsyncExitStack() as stack:

        async def start(app: web.Application) -> ChildServer:
            server = TestServer(app)
            await server.start_server()
            stack.push_async_callback(server.close)
            return ChildServer(str(server.make_url("/v1")), os.getpid(), 0.0)

        yield start


def losing(answers: Answers, _stream: bool) -> Answers:
    return [replace(one, text=one.text[:-1]) for one in answers]


def seen(*, disturbed: bool, **metrics: float) -> Seen:
    return Seen(disturbed, metrics, 1, 1.0, 0.1, [])


def flat(count: int = 10, step: int = 0) -> list[Point]:
    return [Point(x, float(x), Memory(1000 + step * x, 500 + 50 * x)) for x in range(1, count + 1)]


def outcome(status: int, error: str | None = None) -> Outcome:
    return Outcome(Request(b"{"), status, b"{}", 0.0, array("d"), array("q"), error)


def test_a_crowd_is_as_large_as_asked_and_everybody_asks_for_something_else(
    model: TinyModel,
) -> None:
    who = crowd(model, Size(concurrency=100, streams=300, share=0.05, stall_s=2), 0)

    assert (len(who.stalling), len(who.leaving), len(who.others)) == (5, 15, 280)
    everybody = [*who.stalling, *who.leaving, *who.others]
    assert len({one.body for one in everybody}) == 300
    assert {one.stall_s for one in who.stalling} == {2}
    assert all(one.hang_up_after for one in who.leaving)
    assert all(one.expected for one in everybody)
    assert crowd(model, SIZE, 1) == crowd(model, SIZE, 1) != crowd(model, SIZE, 2)


@pytest.mark.parametrize("disturbed", [True, False])
async def test_only_those_who_neither_stall_nor_leave_are_measured(
    model: TinyModel, serve: Serve, disturbed: bool
) -> None:
    server = await serve(WalkServer(model).app)
    who = crowd(model, SIZE, 0)

    found = await watch(
        server.base_url, who, 20, 0, disturbed=disturbed, on_progress=lambda _done: None
    )

    assert found.faults == []
    assert found.streams == len(who.others) == 56
    assert set(METRICS) == set(found.metrics)


@pytest.mark.parametrize("disturbed", [True, False])
async def test_wrong_texts_are_found_whoever_gets_them(
    model: TinyModel, serve: Serve, disturbed: bool
) -> None:
    server = await serve(WalkServer(model, losing).app)

    found = await watch(
        server.base_url,
        crowd(model, SIZE, 0),
        20,
        0,
        disturbed=disturbed,
        on_progress=lambda _done: None,
    )

    # Who hangs up early enough has got nothing wrong.
    assert len(found.faults) >= SIZE.streams - 3


def test_ratios_pair_the_runs_of_a_round_whichever_came_first() -> None:
    runs = [
        seen(disturbed=False, ttft_p50_ms=10.0),
        seen(disturbed=True, ttft_p50_ms=11.0),
        seen(disturbed=True, ttft_p50_ms=60.0),
        seen(disturbed=False, ttft_p50_ms=20.0),
    ]

    found = ratios(runs)

    assert set(found) == {"ttft_p50_ms"}
    assert (found["ttft_p50_ms"].low, found["ttft_p50_ms"].high) == (1.1, 3.0)


async def test_a_stalled_reader_keeps_the_server_from_writing_until_it_reads_on(
    serve: Serve,
) -> None:
    text = "x" * 400_000
    written: list[float] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(text), 200):
            event = {"choices": [{"text": text[start : start + 200]}]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        written.append(perf_counter())
        await response.write(b'data: {"usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n')
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    server = await serve(app)
    expected = Expected((text,), 3, finish_reason=None)

    found = await read_late(
        server.base_url, "/completions", Request(b"{}", expected, stall_s=0.5), 60
    )

    assert found.fault() is None
    assert written[0] > found.sent_at + 0.5


async def test_a_reader_that_gets_no_answer_says_why(serve: Serve) -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/completions", hang_up)
    server = await serve(app)

    found = await read_late(server.base_url, "/completions", Request(b"{}"), 60)

    assert "Connection" in (found.fault() or "")


def test_the_mix_has_every_kind_on_both_paths_and_repeats_itself(model: TinyModel) -> None:
    found = mix(model, 400, 0)

    kinds = Counter((one.kind, one.path) for one in found)
    assert {kind for kind, _ in kinds} == {"streamed", "whole", "hang-up", "bad"}
    assert len(kinds) == 8
    assert any(one.request.expected for one in found)
    assert all(one.request.hang_up_after for one in found if one.kind == "hang-up")
    assert mix(model, 400, 0) == found != mix(model, 400, 1)


async def test_a_load_counts_what_it_sent_and_measures_in_between(
    model: TinyModel, serve: Serve
) -> None:
    server = await serve(WalkServer(model).app)
    progress: list[int] = []

    tally = await load(server, model, 100, 0, concurrency=8, on_progress=progress.append)

    assert tally.faults == []
    assert tally.counts.total() == 100
    assert [point.requests for point in tally.points] == progress == [*range(10, 101, 10)]
    assert all(point.memory.serving > 0 for point in tally.points)


async def test_wrong_texts_and_bad_requests_that_are_answered_are_faults(
    model: TinyModel, serve: Serve
) -> None:
    server = await serve(WalkServer(model, losing).app)

    tally = await load(server, model, 60, 0, concurrency=8, on_progress=lambda _done: None)

    assert any("the text of choice 0" in one for one in tally.faults)
    bad = Sent("bad", "/completions", Request(b"{"))
    assert fault(bad, outcome(400)) is None
    assert fault(bad, outcome(200)) == "a bad request got HTTP 200 (whole)"
    assert fault(bad, outcome(500)) is not None
    assert fault(bad, outcome(0, "reset")) == "a bad request got HTTP 0 (reset)"


def test_a_server_that_holds_what_it_held_before_leaks_nothing() -> None:
    assert leaks(flat(), IDLE, replace(IDLE, descriptors=9)) == []


@pytest.mark.parametrize(
    ("points", "after", "told"),
    [
        (flat(step=100), IDLE, "memory of the serving process grows by 100 bytes a request"),
        (flat(), replace(IDLE, descriptors=12), "2 more descriptors are open"),
        (flat(), replace(IDLE, threads=6), "1 more threads are open"),
        (flat(), replace(IDLE, gauges={"a": 0.0, "b": 0.5}), "b is 0.5"),
        (flat(), replace(IDLE, gauges={}), "/metrics has none of the gauges that have to be 0"),
    ],
)
def test_each_leak_is_told(points: list[Point], after: Holdings, told: str) -> None:
    assert leaks(points, IDLE, after) == [told]


def test_processes_of_the_engine_have_a_trend_of_their_own_where_there_are_any() -> None:
    assert trends(flat())["engine's processes"].slope == pytest.approx(50)
    alone = [replace(point, memory=Memory(1000, 0)) for point in flat()]
    assert set(trends(alone)) == {"serving process"}


def test_the_memory_of_a_process_and_its_children_is_apart() -> None:
    with psutil.Popen(["sleep", "60"]) as child:
        found = memory(os.getpid())
        child.kill()

    assert found.serving > 0
    assert found.children > 0


async def test_a_server_settles_when_its_gauges_are_back(model: TinyModel, serve: Serve) -> None:
    busy = iter([2, 1])
    app = web.Application()

    async def metrics(_request: web.Request) -> web.Response:
        lines = [f"gateway_requests_running {next(busy, 0)}", "gateway_other 7"]
        lines += [f'vllm:num_requests_waiting{{engine="{number}"}} 0' for number in (0, 1)]
        return web.Response(text="\n".join(lines) + "\n")

    app.router.add_get("/metrics", metrics)

    found = await settled(await serve(app), None, 60)

    assert found.gauges == {"gateway_requests_running": 0, "vllm:num_requests_waiting": 0}
    assert found.busy_gauges == {}
    assert found.threads >= 1


async def test_a_server_that_never_settles_is_told_as_it_is(model: TinyModel, serve: Serve) -> None:
    server = await serve(WalkServer(model, honest, gauge=3).app)

    found = await settled(server, None, 0)

    assert found.busy_gauges == {"gateway_requests_running": 3}


async def test_a_server_that_is_gone_is_an_error() -> None:
    server = ChildServer(f"http://127.0.0.1:{free_port()}/v1", os.getpid(), 0.0)

    with pytest.raises(BenchError, match="can't be read"):
        await settled(server, None, 0)


def test_the_picture_is_well_formed_and_has_a_line_a_series() -> None:
    root = ET.fromstring(to_svg("a<b", [1, 2, 3], {"x": [5, 6, 7], 'y"&': [9, 8, 9]}))

    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3]
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "a<b"


async def soak(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `python -m bench.soak`."""
    child = await started(*arguments, module="bench.soak")
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


async def test_leaks_reports_what_it_exits_with_and_draws_the_memory(
    tmp_path: Path,
) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "svg")}
    outputs = [part for name, file in files.items() for part in (f"--{name}", str(file))]

    secret = WALKER.replace("=", "=env A_KEY=s3cret ", 1)
    code, out, err = await soak(
        "leaks", "--server", secret, "--requests", "200", "--warmup", "200", *outputs
    )

    report = json.loads(files["json"].read_text("utf-8"))
    assert report["schema"] == "bench.soak.leaks"
    assert "A_KEY=REDACTED" in report["options"]["server"]
    assert sum(report["requests"].values()) == 200
    assert report["faults"] == []
    assert report["after"]["gauges"] == {"gateway_requests_running": 0}
    assert (code == 0) is (report["leaks"] == []), err
    assert "200 requests: " in out
    assert ET.fromstring(files["svg"].read_text("utf-8")).tag.endswith("svg")


async def test_a_fair_server_exits_0_with_the_ratios_of_every_round(tmp_path: Path) -> None:
    code, out, _ = await soak(
        "fairness", "--server", WALKER, "--concurrency", "20", "--streams", "40", "--rounds", "1",
        "--stall", "0.1", "--json", str(tmp_path / "out.json"),
    )  # fmt: skip

    assert code == 0, out
    report = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert [run["disturbed"] for run in report["runs"]] == [False, True]
    assert set(report["ratios"]) == set(METRICS)


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("fairness", "--streams", "10"),
        ("leaks", "--requests", "1"),
        ("fairness", "--json", "/nowhere/soak.json"),
        ("leaks", "--svg", "/nowhere/soak.svg"),
        ("leaks", "--server", "a=http://127.0.0.1:9/v1"),
        ("leaks", "--server", "a={python} -c pass {port}"),
    ],
)
async def test_wrong_use_exits_2(wrong: tuple[str, ...]) -> None:
    code, _, err = await soak(*wrong)

    assert code == 2
    assert "Traceback" not in err
