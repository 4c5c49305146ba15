"""The users of bench/locustfile.py: how they read answers; where Locust is installed, a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest

from bench.agreement.tool import HOME, ROOT
from bench.fake import FakeServer, Script
from bench.locust_run import Answer, RefusedAnswerError, Run, read_answer
from tests.bench.conftest import StartFake

TEXT = b'data: {"choices": [{"delta": {"content": "word"}}]}\n'
OPENING = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n'
DONE = b"data: [DONE]\n"

LOCUST = HOME / "bin" / "locust"
needs_locust = pytest.mark.skipif(
    not LOCUST.exists(), reason="Locust isn't installed; `make load-tools` does"
)


def test_an_answer_has_the_tokens_of_its_usage_and_times_in_order() -> None:
    start = perf_counter()

    answer = read_answer([OPENING, b"\n", TEXT, b": a comment\n", TEXT, USAGE, DONE], start)

    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)
    assert 0 < answer.ttft_s <= answer.e2el_s


def test_the_first_token_is_the_first_text_and_not_the_first_chunk() -> None:
    arrived: list[float] = []

    def lines() -> Iterator[bytes]:
        for line in (OPENING, TEXT, USAGE, DONE):
            arrived.append(perf_counter())
            yield line

    start = perf_counter()
    answer = read_answer(lines(), start)

    assert answer.ttft_s >= arrived[1] - start


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([TEXT, USAGE], "without"),
        ([TEXT, DONE], "no usage"),
        ([OPENING, USAGE, DONE], "no chunk carried any text"),
        ([TEXT, b'data: {"error": {"message": "engine died"}}\n'], "engine died"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(lines: list[bytes], why: str) -> None:
    with pytest.raises(RefusedAnswerError, match=why):
        read_answer(lines, perf_counter())


def test_time_per_output_token_leaves_the_first_token_out() -> None:
    assert Answer(1.0, 4.0, 7, 4).tpot_s == pytest.approx(1.0)
    assert Answer(1.0, 1.0, 7, 1).tpot_s is None


def test_a_run_ends_when_the_last_answer_is_in() -> None:
    run = Run(left=2, prompts=[{"prompt": "a"}, {"prompt": "b"}])

    assert [run.take(8), run.take(8), run.take(8)] == [{"prompt": "a"}, {"prompt": "b"}, None]
    assert not run.ended(None)
    assert run.ended(Answer(0.5, 2.0, 7, 4))
    record = run.record()
    assert (record["succeeded"], record["failed"]) == (1, 1)
    assert (record["ttft_ms"], record["tpot_ms"], record["e2el_ms"]) == ([500.0], [500.0], [2000.0])


def test_a_run_without_prompts_or_an_end_writes_random_ones() -> None:
    run = Run()

    first, second = run.take(8), run.take(8)

    assert first is not None
    assert first != second
    assert len(first["messages"][0]["content"].split()) == 8


async def locust(*arguments: str) -> tuple[int | None, str]:
    child = await asyncio.create_subprocess_exec(
        *(str(LOCUST), "-f", "bench/locustfile.py", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await child.communicate()
    return child.returncode, out.decode()


@needs_locust
async def test_locust_sends_what_is_asked_for_and_ends(
    start_fake: StartFake, tmp_path: Path
) -> None:
    together = asyncio.Barrier(2)

    async def gate() -> None:
        await asyncio.wait_for(together.wait(), 30)  # none is answered before two are there

    fake, url = await start_fake(Script(gate=gate))
    report = tmp_path / "report.json"

    code, out = await locust(
        *("--headless", "-u", "2", "-r", "2", "--host", url, "--requests", "6"),
        *("--input-tokens", "16", "--output-tokens", "4", "--report", str(report)),
    )

    assert code == 0, out
    assert "TTFT" in out
    record = json.loads(report.read_text("utf-8"))
    assert (record["succeeded"], record["failed"]) == (6, 0)
    assert record["completion_tokens"] == 6 * 4
    assert record["prompt_tokens"] == sum(fake.count(body) for body in fake.seen.bodies)
    assert fake.seen.peak == 2


@needs_locust
async def test_locust_counts_a_broken_stream_as_a_failure(start_fake: StartFake) -> None:
    fault: dict[int, str] = {1: "no_done", 2: "500", 3: "cut"}
    _, url = await start_fake(Script(fault=fault.get))

    code, out = await locust(
        *("--headless", "-u", "1", "-r", "1", "--host", url, "--requests", "4"),
        *("--output-tokens", "4"),
    )

    assert code == 1
    assert "without [DONE]" in out
    assert "HTTP 500" in out


@needs_locust
async def test_locust_says_why_it_can_not_start(start_fake: StartFake) -> None:
    _, url = await start_fake(Script(api_key="right"), FakeServer)

    code, out = await locust(
        *("--headless", "-u", "1", "-r", "1", "--host", url, "--requests", "1"),
        *("--api-key", "wrong"),
    )

    assert code == 2
    assert "401" in out
