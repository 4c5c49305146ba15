"""`python -m bench.agreement`: what it makes of other tools' reports, and a whole run with a
stand-in for one of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.agreement.__main__ import chosen_tools
from bench.agreement.judging import Pair, differs, judge
from bench.agreement.load import Figures, Load
from bench.agreement.running import run_tool
from bench.agreement.tool import Command
from bench.agreement.tools import NAMES, OURS, other_tools
from bench.errors import BenchError
from bench.fake import Script
from bench.reports.comparison import NO_CONCLUSION, Finding
from tests.bench.conftest import StartFake
from tests.bench.test_throughput import started

REPORTS = Path(__file__).parent / "reports"
LOAD = Load(
    base_url="http://127.0.0.1:8000/v1",
    endpoint="chat",
    model="fake-model",
    input_tokens=32,
    output_tokens=8,
    concurrency=2,
    requests=4,
    seed=0,
    api_key="sk-secret",
)
SAME = Figures(
    succeeded=4,
    failed=0,
    total_tokens_per_s=1000.0,
    output_tokens_per_s=500.0,
    ttft_mean_ms=20.0,
    ttft_p50_ms=19.0,
    tpot_mean_ms=5.0,
    tpot_p50_ms=4.9,
)
MESSAGES = [{"role": "user", "content": "1 the of and"}]


def pairs(*ratios: float, tool: str = "vllm", other: Figures = SAME) -> list[Pair]:
    return [
        Pair(
            round=number,
            tool=tool,
            ours_first=bool(number % 2),
            ours=SAME,
            other=replace(other, ttft_p50_ms=SAME.ttft_p50_ms * ratio),
        )
        for number, ratio in enumerate(ratios, 1)
    ]


def verdicts(findings: Sequence[Finding]) -> dict[str, str]:
    return {finding.metric: finding.verdict for finding in findings}


def test_an_interval_inside_the_tolerance_is_agreement() -> None:
    found = verdicts(judge(pairs(0.99, 1.0, 1.01, 1.02, 1.04), 4, 0.05))

    assert found["vllm: TTFT p50, ms"] == "within 5%"
    assert found["vllm: total tokens/s"] == "within 5%"


def test_an_interval_outside_the_tolerance_is_a_difference() -> None:
    slower, faster = (
        judge(pairs(*ratios), 4, 0.05)
        for ratios in ((1.06, 1.1, 1.2, 1.1, 1.07), (0.8, 0.9, 0.7, 0.9, 0.94))
    )

    assert verdicts(slower)["vllm: TTFT p50, ms"] == "differs by more than 5%"
    assert [finding.metric for finding in faster if differs(finding)] == ["vllm: TTFT p50, ms"]


def test_an_interval_across_a_bound_is_no_conclusion() -> None:
    found = verdicts(judge(pairs(1.0, 1.02, 1.04, 1.06, 1.08), 4, 0.05))

    assert found["vllm: TTFT p50, ms"] == NO_CONCLUSION


def test_few_rounds_allow_no_conclusion_about_agreement() -> None:
    assert set(verdicts(judge(pairs(1.0, 1.0, 1.0, 1.0), 4, 0.05)).values()) == {NO_CONCLUSION}


def test_pairs_with_failed_or_missing_requests_are_not_compared() -> None:
    failed = pairs(*[1.0] * 5, tool="k6", other=replace(SAME, failed=1))
    missing = pairs(*[1.0] * 5, tool="locust", other=replace(SAME, succeeded=3))

    assert judge([*failed, *missing], 4, 0.05) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_report_gives_the_figures_it_states(name: str) -> None:
    expected = json.loads((REPORTS / "expected.json").read_text("utf-8"))[name]

    figures = other_tools(Path("nowhere"))[name].read(REPORTS)

    assert {key: getattr(figures, key) for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_command_names_the_load_and_keeps_the_key_off_the_command_line(
    name: str, tmp_path: Path
) -> None:
    command = other_tools(Path("env"))[name].command(LOAD, [{"messages": MESSAGES}], tmp_path)

    shown = " ".join(command.arguments)
    written = "".join(path.read_text("utf-8") for path in tmp_path.iterdir())
    assert "sk-secret" not in shown
    assert "sk-secret" in written + str(command.environment)
    assert "1 the of and" in written
    assert "fake-model" in shown + written + str(command.environment)


def test_tools_that_are_not_there_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        BenchError, match=r"--tools locust: it isn't installed in .*make load-tools"
    ):
        chosen_tools("locust", tmp_path)
    with pytest.raises(BenchError, match="--tools wrk: there is vllm, guidellm, locust, k6"):
        chosen_tools("wrk", tmp_path)


class Silent:
    """A tool that ends without a report."""

    name = "silent"
    notes = ()

    def __init__(self, code: str) -> None:
        self._code = code

    def version(self) -> str:
        return "1"

    def command(self, load: Load, prompts: Sequence[Any], folder: Path) -> Command:
        return Command([sys.executable, "-c", self._code])

    def read(self, folder: Path) -> Figures:
        return Figures(**json.loads((folder / "report.json").read_text("utf-8")))


async def test_a_tool_without_a_report_is_an_error_with_what_it_said() -> None:
    with pytest.raises(BenchError, match=r"(?s)silent ended with exit code 3.*no such server"):
        await run_tool(Silent("print('no such server'); raise SystemExit(3)"), LOAD, (), 60)


async def test_a_tool_that_hangs_is_stopped() -> None:
    with pytest.raises(BenchError, match=r"silent had not ended after 0\.2 s \(--timeout\)"):
        await run_tool(Silent("import time; time.sleep(600)"), LOAD, (), 0.2)


STAND_IN = """\
import json, os, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if sys.argv[1:] == ["version"]:
    sys.exit(print("k6 v9.9 (commit/0, go1.24.3, linux/amd64)"))

def send(line):
    body = {"model": os.environ["MODEL"], "max_tokens": int(os.environ["OUTPUT_TOKENS"])}
    request = urllib.request.Request(
        os.environ["BASE_URL"] + "/chat/completions",
        json.dumps({**json.loads(line), **body}).encode(),
        {"Content-Type": "application/json"},
    )
    return urllib.request.urlopen(request).read()

lines = Path(os.environ["PROMPTS"]).read_text().splitlines()
with ThreadPoolExecutor(int(os.environ["CONCURRENCY"])) as pool:
    list(pool.map(send, lines))
trend = {"avg": 2.0, "med": 1.0}
summary = {
    "llm_ttft": trend,
    "llm_tpot": trend,
    "llm_failed": {"fails": len(lines), "passes": 0},
    "llm_prompt_tokens": {"rate": 10.0},
    "llm_completion_tokens": {"rate": 5.0},
}
file = sys.argv[sys.argv.index("--summary-export") + 1]
Path(file).write_text(json.dumps({"metrics": summary}))
"""


def stand_in(home: Path) -> str:
    """A PATH on which `k6` is a script of ours."""
    program = home / "k6"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\n{STAND_IN}")
    program.chmod(0o755)
    return f"{home}{os.pathsep}{os.environ['PATH']}"


async def agreement(*arguments: str, **environ: str) -> tuple[int | None, str, str]:
    child = await started(*arguments, module="bench.agreement", **environ)
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


async def test_every_run_of_a_tool_stands_beside_one_of_ours_and_no_prompt_comes_twice(
    start_fake: StartFake, tmp_path: Path
) -> None:
    fake, url = await start_fake(Script())
    files = [tmp_path / f"found.{kind}" for kind in ("json", "markdown", "svg")]

    code, out, err = await agreement(
        *("--base-url", url, "--tools", "k6"),
        *("--rounds", "2", "--concurrency", "2", "--requests", "4"),
        *("--input-tokens", "32", "--output-tokens", "4"),
        *(text for file in files for text in (f"--{file.suffix[1:]}", str(file))),
        PATH=stand_in(tmp_path / "env"),
    )

    assert code == 0, err
    assert "Fewer than 5 rounds allow no conclusion." in out
    assert files[1].read_text("utf-8") == out
    ET.parse(files[2])
    record = json.loads(files[0].read_text("utf-8"))
    assert [(pair["tool"], pair["ours_first"]) for pair in record["pairs"]] == [
        ("k6", True),
        ("k6", False),
    ]
    assert record["tools"]["k6"]["version"] == "9.9"
    assert "sk-" not in str(record)
    told = [line.split(": ")[0] for line in err.splitlines() if "total tokens/s" in line]
    assert told == ["round 1 of 2, k6", "round 2 of 2, k6"]
    # The warm-up, then both of each round.
    bodies = fake.seen.bodies
    assert len(bodies) == 4 + 2 * 2 * 4
    assert {fake.count(body) for body in bodies} == {32}
    assert {body["max_tokens"] for body in bodies} == {4}
    assert len({json.dumps(body["messages"]) for body in bodies}) == len(bodies)


async def test_failed_requests_are_shown_and_exit_with_1(
    start_fake: StartFake, tmp_path: Path
) -> None:
    # The warm-up has four requests; the sixth is ours, in the first round.
    _, url = await start_fake(Script(fault=lambda number: "500" if number == 6 else None))

    code, out, err = await agreement(
        *("--base-url", url, "--tools", "k6"),
        *("--rounds", "1", "--concurrency", "2", "--requests", "4"),
        *("--input-tokens", "32", "--output-tokens", "4"),
        PATH=stand_in(tmp_path / "env"),
    )

    assert code == 1, err
    assert "Not compared, as requests failed or are missing: k6 in round 1." in out


async def test_an_interruption_keeps_the_pairs_that_are_whole(
    start_fake: StartFake, tmp_path: Path
) -> None:
    arrived, second_round = count(1), asyncio.Event()

    async def gate() -> None:
        if next(arrived) > 4 + 2 * 4:  # the warm-up, and the first round
            second_round.set()
            await asyncio.Event().wait()

    _, url = await start_fake(Script(gate=gate))
    child = await started(
        *("--base-url", url, "--tools", "k6"),
        *("--rounds", "2", "--concurrency", "2", "--requests", "4"),
        *("--input-tokens", "32", "--output-tokens", "4"),
        module="bench.agreement",
        PATH=stand_in(tmp_path / "env"),
    )

    await asyncio.wait_for(second_round.wait(), 60)
    child.send_signal(signal.SIGINT)
    out, err = await child.communicate()

    assert child.returncode == 130, err.decode()
    assert "| 1 | k6 | ours |" in out.decode()
    assert "| 2 | k6 |" not in out.decode()


async def test_a_tool_that_fails_in_a_later_round_costs_no_earlier_one(
    start_fake: StartFake, tmp_path: Path
) -> None:
    # The stand-in ends without a report where a request fails: here in the second round.
    _, url = await start_fake(Script(fault=lambda number: "500" if number > 12 else None))
    report = tmp_path / "found.json"

    code, out, err = await agreement(
        *("--base-url", url, "--tools", "k6", "--json", str(report)),
        *("--rounds", "2", "--concurrency", "2", "--requests", "4"),
        *("--input-tokens", "32", "--output-tokens", "4"),
        PATH=stand_in(tmp_path / "env"),
    )

    assert code == 2
    assert "without a report" in err
    assert out.startswith("**Not complete: k6 ended with exit code 1")
    assert "| 1 | k6 | ours |" in out
    assert len(json.loads(report.read_text("utf-8"))["pairs"]) == 1


async def test_wrong_usage_names_the_option_and_what_to_do(tmp_path: Path) -> None:
    (
        (few, _, few_said),
        (absent, _, absent_said),
        (without, _, without_said),
        (
            lost,
            _,
            lost_said,
        ),
    ) = await asyncio.gather(
        agreement("--tools", "vllm", "--requests", "4", "--concurrency", "8"),
        agreement("--tools", "locust", "--tools-env", str(tmp_path)),
        agreement("--tools", "k6", PATH=str(tmp_path)),
        agreement("--json", str(tmp_path / "nowhere" / "found.json")),
    )

    assert (few, absent, without, lost) == (2, 2, 2, 2)
    assert "grafana.com" in without_said
    assert "there is no directory" in lost_said
    assert "--requests 4 is below --concurrency 8" in few_said
    assert "make load-tools" in absent_said


def test_ours_is_run_like_the_others(tmp_path: Path) -> None:
    arguments = OURS.command(replace(LOAD, seed=7), (), tmp_path).arguments

    assert ("--seed", "7") in pairwise(arguments)
    assert ("--warmup", "0") in pairwise(arguments)
