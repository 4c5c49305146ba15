from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from bench.errors import BenchError
from bench.frontend.cpu import CpuTimes, cpu_times
from bench.frontend.plot import to_svg
from bench.frontend.report import COLUMNS, TOKEN_COST, Findings, Round, to_markdown, to_record
from bench.frontend.run import Figures, Served, measure
from bench.frontend.work import Amount, Work, Writer, tokens
from bench.tiny.model import TinyModel, make
from tests.bench.frontend.server import FrontEnd
from tests.bench.test_throughput import started

SERVER = "{python} -m tests.bench.frontend.server --model {model} --port {port}"
SMALL = ("--concurrency", "1", "3", "--scale", "0.01", "--output-tokens", "8")
FIGURES = Figures(500.0, 400.0, 8.0, 12.0, 50.0, 20_000.0, 40.0, 90.0, 10.0, 30.0, 0.4, 0, ())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make(tmp_path_factory.mktemp("tiny"))


async def frontend(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `python -m bench.frontend`."""
    child = await started(*arguments, module="bench.frontend")
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


def findings(*ratios: float, faulty: int = 0) -> Findings:
    """Rounds in which B's tokens cost `ratios` times as much as A's; the last one may be faulty."""
    rounds = [
        Round(
            number,
            ("a", "b"),
            {32: {"a": FIGURES, "b": replace(FIGURES, token_us=ratio * FIGURES.token_us)}},
        )
        for number, ratio in enumerate(ratios, 1)
    ]
    if faulty:
        wrong = replace(FIGURES, token_us=1e6, faulty=faulty, faults=("no [DONE]",))
        rounds[-1].figures[32]["b"] = wrong
    return Findings(("a", "b"), (32,), tuple(rounds))


async def test_servers_are_measured_in_turns_and_every_answer_verified(tmp_path: Path) -> None:
    report, picture = tmp_path / "report.json", tmp_path / "picture.svg"

    code, out, err = await frontend(
        "--server", f"one={SERVER}", "--server", f"two=env A_KEY=s3cret {SERVER}",
        "--rounds", "2", *SMALL,
        "--json", str(report), "--plot", str(picture),
    )  # fmt: skip

    assert code == 0, err
    assert TOKEN_COST.label in out
    assert "two / one" in out
    found = json.loads(report.read_text("utf-8"))
    assert [one["order"] for one in found["rounds"]] == [["one", "two"], ["two", "one"]]
    for measured in found["rounds"]:
        for figures in (
            measured["figures"][size][name] for size in "13" for name in found["servers"]
        ):
            assert figures["faulty"] == 0
            assert figures["token_all_in_us"] > 0
            assert figures["ttft_p50_ms"] > 0
            assert figures["streamed_request_us"] > 0
    assert found["settings"]["concurrency"] == [1, 3]
    assert found["machine"]["cores"] >= 1
    assert found["servers"]["one"]["command"][0] == "{python}"
    assert found["servers"]["two"]["command"][:2] == ["env", "A_KEY=REDACTED"]
    assert ET.fromstring(picture.read_text("utf-8")).tag.endswith("svg")


async def test_a_wrong_answer_exits_1_and_is_named() -> None:
    code, out, _ = await frontend(
        "--server", f"good={SERVER}", "--server", f"bad={SERVER} --errs", "--rounds", "1", *SMALL
    )

    assert code == 1
    assert "Round 1, bad, concurrency 1: " in out
    assert "the text of choice 0 differs" in out
    assert "Round 1, good" not in out


async def test_a_peer_that_runs_already_is_measured_by_its_process_and_its_key_stays_secret(
    model: TinyModel, tmp_path: Path
) -> None:
    server, record = TestServer(FrontEnd(model).app), tmp_path / "record.json"
    await server.start_server()
    try:
        url = server.make_url("/v1")
        peer = ("--peer", f"me={url.with_user('some-key')},{os.getpid()}")
        code, out, err = await frontend(
            "--server", f"a={SERVER}", *peer, "--rounds", "1", "--json", str(record), *SMALL
        )
    finally:
        await server.close()

    assert code == 0, err
    assert "me / a" in out
    written = record.read_text()
    assert str(url) in written
    assert "some-key" not in out + err + written


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--server", "vlm"), "expected gateway, vllm or NAME=COMMAND"),
        (("--server", "a=http://127.0.0.1:1/v1"), "is a --peer"),
        (("--server", "gateway", "--server", "gateway"), "the same name"),
        (("--peer", "a=http://127.0.0.1:1/v1"), "expected NAME=URL,PID"),
        (("--peer", "a=b,1"), "expected NAME=URL,PID"),
        (("--peer", "a=http://127.0.0.1:1/v1,999999999"), "no process 999999999"),
        (("--concurrency", "0"), "at least 1"),
        (("--json", "/nowhere/a.json"), "--json /nowhere/a.json: there is no directory"),
        (("--plot", "/nowhere/a.svg"), "--plot /nowhere/a.svg: there is no directory"),
        (("--server", "a={python} -m bench.fake --port {port}"), "no model 'tiny'"),
    ],
)
async def test_wrong_usage_exits_2_and_says_why(wrong: tuple[str, ...], said: str) -> None:
    code, out, err = await frontend(*wrong)

    assert (code, out) == (2, "")
    assert said in err.replace("\n", " ")
    assert "Traceback" not in err


async def test_a_token_costs_what_a_long_run_takes_beyond_its_requests(
    model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = TestServer(FrontEnd(model).app)
    await server.start_server()
    writer = Writer(model, "tiny", 0)
    ones = [1] * 10
    work = Work(
        2,
        writer.requests(ones, stream=True),
        writer.requests(ones, stream=False),
        writer.requests([5, 15], stream=True),
    )
    # Before and after each run: 1 ms a streamed request, 0.5 ms a whole one; then 18 tokens that
    # follow two requests.
    clock = iter([0.0, 0.010, 1.0, 1.005, 2.0, 2.0 + 2 * 0.001 + 18 * 0.000_010])
    monkeypatch.setattr("bench.frontend.run.cpu_times", lambda _pid: CpuTimes(next(clock), 0.0))

    told: list[float] = []
    try:
        served = Served("s", str(server.make_url("/v1")), os.getpid())
        figures = await measure(served, work, told.append)
    finally:
        await server.close()

    assert figures.streamed_request_us == pytest.approx(1000)
    assert figures.whole_request_us == pytest.approx(500)
    assert figures.token_us == pytest.approx(10)
    assert figures.token_all_in_us == pytest.approx((2 * 1000 + 18 * 10) / 20)
    assert figures.faulty == 0
    assert told[-1] == work.tokens == 40


def test_the_same_seed_writes_the_same_requests_and_none_twice(model: TinyModel) -> None:
    one, other = (Writer(model, "tiny", 3).work(4, Amount(16, 0.05)) for _ in range(2))

    assert one == other
    contents = [
        json.loads(request.body)["messages"][0]["content"] for part in one.parts for request in part
    ]
    assert len({content.split()[0] for content in contents}) == len(contents)
    assert Writer(model, "tiny", 4).work(4, Amount(16, 0.05)) != one


@pytest.mark.parametrize("concurrency", [1, 32, 256, 1000])
def test_long_answers_vary_around_the_length_asked_for(model: TinyModel, concurrency: int) -> None:
    amount = Amount(128, 1.0)
    work = Writer(model, "tiny", 0).long(amount.long(concurrency), 128)

    lengths = [request.expected.completion_tokens for request in work if request.expected]
    assert all(64 <= length <= 192 for length in lengths)
    assert tokens(work) == pytest.approx(128 * len(work), rel=0.15)
    assert len(work) >= max(40, 2 * concurrency)


def test_every_client_has_a_request_however_small_the_scale() -> None:
    assert Amount(128, 0.001).short(64) == Amount(128, 0.001).long(64) == 64


def test_ratios_are_those_of_the_rounds() -> None:
    ratio = findings(8.0, 9.0, 10.0).ratio("b", 32, TOKEN_COST)

    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == (8.0, 9.0, 10.0)
    assert "9.00 (8.00 to 10.00)" in to_markdown(findings(8.0, 9.0, 10.0))


def test_a_round_with_wrong_answers_is_told_but_not_counted() -> None:
    found = findings(8.0, 8.0, 8.0, faulty=3)

    assert found.values("b", 32, TOKEN_COST) == [64.0, 64.0]
    assert found.faulty == 3
    assert "Round 3, b, concurrency 32: 3 wrong answers" in to_markdown(found)
    assert "no [DONE]" in to_markdown(found)


def test_a_busy_load_generator_is_told() -> None:
    busy = findings(8.0)
    busy.rounds[0].figures[32]["a"] = replace(FIGURES, client_share=0.97)

    assert "97% busy" in to_markdown(busy)
    assert "busy" not in to_markdown(findings(8.0))


def test_nothing_measured_is_still_a_report() -> None:
    nothing = Findings(("a", "b"), (1, 32), ())

    assert "| 1 | a | - |" in to_markdown(nothing)
    assert to_record(nothing, {})["ratios"] == []
    assert ET.fromstring(to_svg(nothing)) is not None


def test_the_record_holds_every_round_and_ratio() -> None:
    record = json.loads(json.dumps(to_record(findings(8.0, 9.0), {"machine": {"cores": 2}})))

    assert record["machine"] == {"cores": 2}
    assert record["rounds"][1]["figures"]["32"]["b"]["token_us"] == 72.0
    assert {one["figure"] for one in record["ratios"]} == {
        column.name for column in COLUMNS if column.name != "children_token_us"
    }


def test_the_plot_shows_each_server_and_concurrency() -> None:
    figures = {1: {"a<b": FIGURES, "c": FIGURES}, 1000: {"a<b": FIGURES, "c": FIGURES}}
    found = Findings(("a<b", "c"), (1, 1000), (Round(1, ("a<b", "c"), figures),))

    root = ET.fromstring(to_svg(found))

    space = "{http://www.w3.org/2000/svg}"
    texts = [one.text for one in root.findall(f"{space}text")]
    assert {"a<b", "c", "1,000", "8", "40"} <= set(texts)
    assert len(root.findall(f"{space}circle")) == 2 * 2 * 3


@pytest.fixture
def idle_child() -> Iterator[int]:
    """The id of a process that has used some CPU, and waits."""
    script = "sum(range(10**6)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.communicate(b"\n")


def test_cpu_is_that_of_the_process_with_its_children_apart(idle_child: int) -> None:
    before = time.process_time()
    mine, child = cpu_times(os.getpid()), cpu_times(idle_child)
    after = time.process_time()

    assert before <= mine.own <= after
    assert 0 < child.own <= mine.children
    assert child.children == 0
    assert mine.since(mine) == CpuTimes(0, 0)


def test_a_process_that_is_gone_has_no_cpu_time() -> None:
    with pytest.raises(BenchError, match="no process 4194305"):
        cpu_times(2**22 + 1)  # above the highest id there can be
