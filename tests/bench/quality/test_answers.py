from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.quality.overlap import exact_match, f1
from bench.quality.questions import SAMPLE, read
from tests.bench.quality.conftest import Serve
from tests.bench.quality.known import Known, content, lines, measured, quality


@pytest.mark.parametrize(
    ("answer", "right", "f1_expected", "exact"),
    [
        ("Paris", ["Paris"], 1, 1),
        ("the PARIS.", ["Paris"], 1, 1),
        ("The capital of France is Paris.", ["Paris"], 2 / 6, 0),
        ("Carbon dioxide", ["CO2", "carbon-dioxide gas"], 0, 0),
        ("Pacific", ["Atlantic", "Pacific Ocean"], 2 / 3, 0),
        ("no no", ["no"], 2 / 3, 0),
        ("", ["Paris"], 0, 0),
        ("the", ["a"], 1, 1),
    ],
)
def test_overlap_is_squads(answer: str, right: list[str], f1_expected: float, exact: int) -> None:
    assert f1(answer, right) == pytest.approx(f1_expected)
    assert exact_match(answer, right) == exact


QUESTIONS = [
    {"prompt": "capital of France?", "answer": "Paris"},
    {"prompt": "largest ocean?", "answers": ["Pacific", "Pacific Ocean"]},
    {"messages": [{"role": "user", "content": "2+2?"}], "answers": ["4", "four"]},
]
ANSWERS = {"capital of France?": "It is Paris.", "largest ocean?": "pacific", "2+2?": "five"}


async def test_answers_are_scored_over_the_chat(serve: Serve, tmp_path: Path) -> None:
    known = Known(answers=ANSWERS)
    file = lines(tmp_path / "q.jsonl", *QUESTIONS)

    record = await measured(await serve(known), tmp_path / "r.json", "--answers", file)

    found = record["answers"]
    assert [one["f1"] for one in found["questions"]] == [0.5, 1, 0]
    assert found["f1"]["value"] == pytest.approx(0.5)
    assert found["exact_match"]["value"] == pytest.approx(1 / 3)
    assert found["f1"]["low"] <= 0.5 <= found["f1"]["high"]
    assert (found["scored"], found["failed"]) == (3, 0)
    assert {body["temperature"] for body in known.bodies} == {0}


async def test_answers_are_scored_over_completions(serve: Serve, tmp_path: Path) -> None:
    known = Known(answers=ANSWERS)
    file = lines(tmp_path / "q.jsonl", *QUESTIONS[:2])

    record = await measured(
        *(await serve(known), tmp_path / "r.json", "--answers", file),
        *("--endpoint", "completions", "--max-tokens", "7"),
    )

    assert [one["answer"] for one in record["answers"]["questions"]] == ["It is Paris.", "pacific"]
    assert {(body["max_tokens"], *body["stop"]) for body in known.bodies} == {(7, "\n")}


async def test_a_refused_question_is_failed_not_wrong(serve: Serve, tmp_path: Path) -> None:
    known = Known(answers=ANSWERS | {"2+2?": "4"})
    file = lines(tmp_path / "q.jsonl", *QUESTIONS, {"prompt": "unknown?", "answer": "x"})
    url, result = await serve(known), tmp_path / "r.json"

    code, out, _ = await quality("--base-url", url, "--answers", file, "--json", result)

    assert code == 1
    assert "1 questions failed" in out
    found = json.loads(content(result))["answers"]
    assert (found["scored"], found["failed"]) == (3, 1)
    assert "not [known]" in found["questions"][3]["failure"]
    assert found["f1"]["value"] == pytest.approx(2.5 / 3)


async def test_answers_are_compared_question_by_question(serve: Serve, tmp_path: Path) -> None:
    asked = [{"prompt": f"{n}?", "answer": "yes"} for n in range(12)]
    file = lines(tmp_path / "q.jsonl", *asked)
    right = await serve(Known(answers={f"{n}?": "yes" for n in range(12)}))
    wrong = await serve(Known(answers={f"{n}?": "yes" if n > 8 else "no" for n in range(12)}))
    first = tmp_path / "first.json"
    await measured(right, first, "--answers", file)

    worse = await measured(wrong, tmp_path / "r.json", "--answers", file, "--baseline", first)
    code, _, err = await quality(
        "--base-url", right, "--answers", file, "--baseline", first, "--max-tokens", "3"
    )

    assert worse["baseline"]["answers"]["f1"]["difference"] == pytest.approx(-0.75)
    assert worse["baseline"]["answers"]["f1"]["verdict"] == "worse"
    assert code == 2
    assert "--max-tokens" in err


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("no object", "expected an object"),
        ({"prompt": "?"}, '"answer"'),
        ({"prompt": "?", "messages": [], "answer": "x"}, '"messages"'),
        ({"prompt": "?", "answers": []}, "a list of strings"),
        ({"messages": "?", "answer": "x"}, "a list of messages"),
    ],
)
def test_a_bad_question_is_named_by_its_line(tmp_path: Path, entry: Any, said: str) -> None:
    file = lines(tmp_path / "q.jsonl", QUESTIONS[0], entry)

    with pytest.raises(BenchError, match="line 2") as caught:
        read(file, "chat")

    assert said in str(caught.value)


def test_the_shipped_questions_are_answered_by_their_own_answers() -> None:
    sample = read(SAMPLE, "completions")

    assert len(sample.questions) == 30
    assert all(exact_match(one, q.right) for q in sample.questions for one in q.right)
