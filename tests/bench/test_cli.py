"""What the commands share."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from bench.cli.command import check_outputs, redacted
from bench.errors import BenchError


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--api-key", "sk-1", "--quiet"], ["--api-key", "REDACTED", "--quiet"]),
        (["--api-key=sk-1"], ["--api-key=REDACTED"]),
        (["--env", "HF_TOKEN=hf"], ["--env", "HF_TOKEN=REDACTED"]),
        (["--env=HF_TOKEN=hf"], ["--env=HF_TOKEN=REDACTED"]),
        (["a=serve --api-key sk-1 -v"], ["a=serve --api-key REDACTED -v"]),
        (["--set", "state.password=x"], ["--set", "state.password=REDACTED"]),
        (["http://me:pw@host/v1"], ["http://me:REDACTED@host/v1"]),
        (["--max-tokens", "8", "--tokenizer", "t"], ["--max-tokens", "8", "--tokenizer", "t"]),
        (["--output-tokens=8", "k=v"], ["--output-tokens=8", "k=v"]),
    ],
)
def test_secrets_are_left_out_of_a_command(words: list[str], shown: list[str]) -> None:
    assert redacted(words) == shown


def test_a_file_to_write_to_is_no_directory_and_has_one(tmp_path: Path) -> None:
    check_outputs(Namespace(json=tmp_path / "new.json", svg=None), "json", "svg")
    with pytest.raises(BenchError, match=r"--json .*that is a directory; give a file in it"):
        check_outputs(Namespace(json=tmp_path), "json")
    with pytest.raises(BenchError, match=r"--svg .*there is no directory"):
        check_outputs(Namespace(svg=tmp_path / "none" / "new.svg"), "svg")
