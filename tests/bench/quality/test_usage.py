from __future__ import annotations

from pathlib import Path

import pytest

from bench.quality.options import names_model
from tests.bench.quality.conftest import Serve
from tests.bench.quality.known import Known, lines, quality
from tests.bench.test_throughput import started


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((), "--perplexity"),
        (("--perplexity", "--baseline", "/nowhere.json"), "--baseline"),
        (("--perplexity", "--text", "/nowhere.txt"), "--text"),
        (("--perplexity", "--set", "engine.model=x"), "--set"),
        (("--answers", "/nowhere.jsonl"), "--answers"),
        (("--tasks", "hellaswag"), "--tokenizer"),
        (("--tasks", "hellaswag", "--tokenizer", "/nowhere"), "/nowhere"),
        (("--tasks", "a", "--endpoint", "chat", "--data", "/nowhere"), "--data"),
        (("--tasks", "piqa", "--endpoint", "chat", "--shots", "5"), "--shots"),
        (("--answers", "--json", "/nowhere/at/all.json"), "--json"),
    ],
)
async def test_wrong_usage_exits_2_and_names_the_option(wrong: tuple[str, ...], said: str) -> None:
    code, out, err = await quality(*wrong)

    assert (code, out) == (2, "")
    assert said in err


async def test_errors_and_failures_are_exit_codes(serve: Serve, tmp_path: Path) -> None:
    file = lines(tmp_path / "q.jsonl", *({"prompt": word, "answer": "yes"} for word in "abc"))
    url = await serve(Known(answers={"a": "yes", "b": "no"}))

    results = []
    for arguments in ((), ("--answers", str(file), "--base-url", url)):
        child = await started(*arguments, module="bench.quality")
        out, err = await child.communicate()
        results.append((child.returncode, "| F1 | 0.500 |" in out.decode(), err.decode()))

    assert [(code, scored) for code, scored, _ in results] == [(2, False), (1, True)]
    assert results[0][2].startswith("error: nothing to measure")


def test_a_configuration_and_a_model_are_told_apart() -> None:
    assert not names_model("configs/default.yaml")
    assert names_model("some/model")
