from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.client import Target
from bench.datasets import prepare
from bench.errors import BenchError
from bench.fake import FakeServer, Script
from bench.measuring.facts import ServerFacts, read_server
from bench.measuring.measure import Measurement, measure
from bench.measuring.settings import Dataset, Settings
from bench.prompts.prompt import Prompt, Workload
from tests.bench.conftest import StartFake

SMALL = Settings(concurrency=2, requests=8, warmup=0, input_tokens=64, output_tokens=4)
ASKED = [{"from": "human", "value": "what is it"}, {"from": "gpt", "value": "one two three four"}]


class Watcher:
    def begin(self, phase: str, total: int) -> None: ...

    def outcome(self, outcome: object) -> None: ...


class Bench:
    """A scripted server, and measurements of it."""

    def __init__(self, session: aiohttp.ClientSession, fake: FakeServer, url: str) -> None:
        self.fake = fake
        self._session = session
        self._url = url

    async def prepare(self, settings: Settings) -> Workload:
        server, target = await self._server(settings)
        return await prepare(self._session, target, settings, server)

    async def measure(self, settings: Settings) -> Measurement:
        server, target = await self._server(settings)
        workload = await prepare(self._session, target, settings, server)
        return await measure(self._session, target, settings, server, workload, Watcher())

    async def _server(self, settings: Settings) -> tuple[ServerFacts, Target]:
        server = await read_server(self._session, self._url, api_key=None, model=None)
        return server, Target(self._url, settings.endpoint, server.model)


@pytest.fixture
async def bench(start_fake: StartFake, session: aiohttp.ClientSession) -> Bench:
    fake, url = await start_fake(Script(max_model_len=500))
    return Bench(session, fake, url)


def of(kind: Any, **more: Any) -> Settings:
    return replace(SMALL, dataset=Dataset(kind, **more))


def written(file: Path, *records: object) -> Path:
    file.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return file


def first(workload: Workload, count: int, *, warmup: int = 0) -> list[Prompt]:
    return list(islice(workload.begin(warmup), count))


def text(prompt: Prompt) -> str:
    return " ".join(message["content"] for message in prompt.fields["messages"])


async def test_shared_prefixes_begin_alike_and_go_on_differently(bench: Bench) -> None:
    workload = await bench.prepare(of("shared-prefix", prefix_tokens=30, prefixes=3))

    prompts = first(workload, 60)

    assert {bench.fake.count(prompt.fields) for prompt in prompts} == {64}
    assert {prompt.prompt_tokens for prompt in prompts} == {64}
    # Two digits lead the two messages; 30 words follow.
    assert len({tuple(text(prompt).split()[:32]) for prompt in prompts}) == 3
    assert len({tuple(text(prompt).split()[:38]) for prompt in prompts}) == 60


@pytest.mark.parametrize("tokens", [1, 60, 500])
async def test_a_prefix_that_leaves_nothing_or_is_nothing_is_refused(
    bench: Bench, tokens: int
) -> None:
    with pytest.raises(BenchError, match="--prefix-tokens"):
        await bench.prepare(of("shared-prefix", prefix_tokens=tokens))


async def test_conversations_grow_with_the_answers(bench: Bench) -> None:
    found = await bench.measure(replace(of("multi-turn", turns=4), concurrency=1))

    assert len(found.measured.outcomes) == 8
    conversations = [body["messages"] for body in bench.fake.seen.bodies]
    for turn, messages in enumerate(conversations):
        said = [message["role"] for message in messages]
        assert said == ["system", "user"] + ["assistant", "user"] * (turn % 4)
        assert {m["content"] for m in messages if m["role"] == "assistant"} <= {" word" * 4}
        if turn % 4:
            assert messages[: len(conversations[turn - 1])] == conversations[turn - 1]
    assert conversations[4][0] != conversations[0][0]


async def test_a_conversation_whose_request_failed_is_over(bench: Bench) -> None:
    bench.fake.script.fault = lambda _number: "500"

    found = await bench.measure(replace(of("multi-turn", turns=4), concurrency=1))

    assert len(found.measured.outcomes) == 8
    assert {len(body["messages"]) for body in bench.fake.seen.bodies} == {2}


async def test_conversations_go_on_in_an_open_loop(bench: Bench) -> None:
    await bench.measure(replace(of("multi-turn", turns=2), rate=50.0))

    lengths = Counter(len(body["messages"]) for body in bench.fake.seen.bodies)
    assert set(lengths) <= {2, 4}
    assert sum(lengths.values()) == 8


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": ASKED},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "what is it"}]},
                {"role": "assistant", "content": "one two three four"},
            ]
        },
    ],
)
@pytest.mark.parametrize("lines", [True, False])
async def test_recorded_conversations_are_sent_up_to_the_first_answer(
    bench: Bench, tmp_path: Path, record: dict[str, Any], lines: bool
) -> None:
    file = tmp_path / "c.json"
    if lines:
        written(file, record, {"conversations": []})
    else:
        file.write_text(json.dumps([record, {"conversations": []}]))
    workload = await bench.prepare(of("sharegpt", path=file))

    prompt, again = first(workload, 2)

    assert prompt.fields == {"messages": [{"role": "user", "content": "what is it"}]}
    assert prompt == again
    assert prompt.prompt_tokens == bench.fake.count(prompt.fields)
    assert prompt.output_tokens == bench.fake.count({"prompt": "one two three four"})
    assert any("may be cached" in note for note in workload.notes)


async def test_answers_are_as_long_as_asked_for_where_that_is_said(
    bench: Bench, tmp_path: Path
) -> None:
    file = written(tmp_path / "c.jsonl", {"conversations": ASKED})
    settings = of("sharegpt", path=file, recorded_lengths=False)

    await bench.measure(replace(settings, output_tokens=7))

    assert {body["max_tokens"] for body in bench.fake.seen.bodies} == {7}


async def test_conversations_beyond_the_context_are_left_out(bench: Bench, tmp_path: Path) -> None:
    long = {"conversations": [{"from": "human", "value": "word " * 600}, ASKED[1]]}
    file = written(tmp_path / "c.jsonl", long, {"conversations": ASKED})

    workload = await bench.prepare(of("sharegpt", path=file))

    assert {prompt.prompt_tokens for prompt in first(workload, 5)} == {8}
    assert any(note.endswith("context: 1") for note in workload.notes)
    with pytest.raises(BenchError, match="no conversation fits the 500 tokens"):
        await bench.prepare(of("sharegpt", path=written(tmp_path / "l.jsonl", long)))


async def test_the_text_of_a_conversation_is_a_prompt_for_completions(
    bench: Bench, tmp_path: Path
) -> None:
    file = written(tmp_path / "c.jsonl", {"conversations": ASKED})

    found = await bench.measure(replace(of("sharegpt", path=file), endpoint="completions"))

    assert not [one for one in found.measured.outcomes if not hasattr(one, "prompt_tokens")]
    assert {body["prompt"] for body in bench.fake.seen.bodies} == {"what is it"}


ROWS = (
    {"at": 1000.5, "prompt_tokens": 40, "completion_tokens": 3, "outcome": "completed"},
    {"at": 1000.0, "prompt_tokens": 30, "completion_tokens": 2, "outcome": "completed"},
    {"at": 1000.2, "prompt_tokens": 0, "completion_tokens": 0, "outcome": "rejected"},
    {"at": 1002.0, "prompt_tokens": 2, "completion_tokens": 4, "outcome": "cancelled"},
    {"at": 1003.0, "prompt_tokens": 499, "completion_tokens": 4, "outcome": "completed"},
)


async def test_a_ledger_is_replayed_in_its_order_times_and_lengths(
    bench: Bench, tmp_path: Path
) -> None:
    file = written(tmp_path / "rows.jsonl", *ROWS)

    workload = await bench.prepare(of("replay", path=file, replay_speed=2.0))

    prompts = first(workload, 99)
    assert [prompt.at_s for prompt in prompts] == [0.0, 0.25, 1.0]
    # 17 tokens are the fewest that make a prompt of this template.
    assert [bench.fake.count(prompt.fields) for prompt in prompts] == [30, 40, 17]
    assert [prompt.output_tokens for prompt in prompts] == [2, 3, 4]
    assert any(note.endswith("fewest possible: 1") for note in workload.notes)
    assert any(note.endswith("context: 1") for note in workload.notes)


async def test_the_warm_up_of_a_replay_takes_nothing_from_it(bench: Bench, tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", *ROWS)
    settings = replace(of("replay", path=file, replay_speed=1000.0), warmup=5)

    found = await bench.measure(settings)

    assert (len(found.warmup.outcomes), len(found.measured.outcomes)) == (5, 3)
    assert sorted(body["max_tokens"] for body in bench.fake.seen.bodies[5:]) == [2, 3, 4]


async def test_a_replay_can_be_given_another_rate(bench: Bench, tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", *ROWS)

    found = await bench.measure(replace(of("replay", path=file), rate=500.0))

    assert len(found.measured.outcomes) == 3


@pytest.mark.parametrize("form", ["csv", "json"])
async def test_rows_with_a_time_of_iso_8601_are_read_from_csv_and_json(
    bench: Bench, tmp_path: Path, form: str
) -> None:
    file = tmp_path / f"rows.{form}"
    rows = [("2030-01-01T00:00:00Z", 30, 2), ("2030-01-01T00:00:01.5Z", 31, 3)]
    names = ("created_at", "prompt_tokens", "completion_tokens")
    if form == "csv":
        lines = [",".join(names), *(",".join(map(str, row)) for row in rows)]
        file.write_text("\n".join(lines))
    else:
        file.write_text(json.dumps({"data": [dict(zip(names, row, strict=True)) for row in rows]}))

    prompts = first(await bench.prepare(of("replay", path=file)), 9)

    assert [(p.at_s, p.prompt_tokens, p.output_tokens) for p in prompts] == [
        (0.0, 30, 2),
        (1.5, 31, 3),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"data": [{"day": "2030-01-01", "requests": 3, "prompt_tokens": 5}]}', "sums"),
        ('{"prompt_tokens": 5, "completion_tokens": 1}', "no time"),
        ('{"at": "soon", "prompt_tokens": 5, "completion_tokens": 1}', "row 1"),
        ('{"at": 1, "prompt_tokens": 0, "completion_tokens": 0}', "no request in it was answered"),
        ('{"at": 1}\nnonsense', "line 2 is not JSON"),
        ("[1, 2]", "expected JSON objects"),
    ],
)
async def test_files_that_are_no_ledger_say_what_is_expected(
    bench: Bench, tmp_path: Path, content: str, reason: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(content)

    with pytest.raises(BenchError, match=reason) as refused:
        await bench.prepare(of("replay", path=file))
    assert f"--dataset-path {file}" in str(refused.value)


@pytest.mark.parametrize("content", ['{"conversations": []}', '{"prompt": "x"}', "[]"])
async def test_files_without_conversations_say_what_is_expected(
    bench: Bench, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "c.json"
    file.write_text(content)

    with pytest.raises(BenchError, match="no conversation in it can be used"):
        await bench.prepare(of("sharegpt", path=file))
