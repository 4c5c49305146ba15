"""What the commands share."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from bench.cli.command import check_outputs, redacted
from bench.cli.head import head
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
        (["http://me:p@w@host/v1"], ["http://me:REDACTED@host/v1"]),
        (["a=http://sk-1@host/v1"], ["a=http://REDACTED@host/v1"]),
        (["http://sk-1:@host/v1"], ["http://REDACTED@host/v1"]),
        (["http://host:1/v1?to=a@b"], ["http://host:1/v1?to=a@b"]),
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_to_write_to_may_be_written(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.touch(mode=0o400)
    check_outputs(Namespace(json=old), "json")  # which replaces it
    with pytest.raises(BenchError, match=r"--svg .*can't be written to"):
        check_outputs(Namespace(svg=old), "svg")
    tmp_path.chmod(0o500)
    with pytest.raises(BenchError, match=r"--json .*can't be written to"):
        check_outputs(Namespace(json=old), "json")
    with pytest.raises(BenchError, match=r"--json .*can't be written to"):
        check_outputs(Namespace(json=tmp_path / "new.json"), "json")


def test_a_record_begins_with_the_options_but_no_secret_of_them() -> None:
    args = Namespace(
        server=["old=env API_KEY=sk-1 serve", "new=http://sk-2@host/v1"],
        admin_key="sk-3",
        vllm_args="--api-key sk-4 -v",
        weights=[1.0, 2.0],
        json=Path("out.json"),
        svg=None,
    )

    found = head("bench.some", 1, args)

    assert (found["schema"], found["schema_version"]) == ("bench.some", 1)
    assert found["options"] == {
        "server": "['old=env API_KEY=REDACTED serve', 'new=http://REDACTED@host/v1']",
        "vllm_args": "--api-key REDACTED -v",
        "weights": "[1.0, 2.0]",
        "json": "out.json",
    }
    assert found["client"]["event_loop"]
