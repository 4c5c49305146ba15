"""Standard streams that are closed or full, or that can't write every character."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SIMULATED = "--set engine.kind=simulated"


@pytest.fixture
def state(tmp_path: Path) -> str:
    return f"--set state.url=sqlite:///{tmp_path}/state.db"


def shell(command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`command` in a shell, which can close streams; `gateway` is ours."""
    words = command.replace("gateway", f"{sys.executable} -m gateway", 1)
    assigned = [f"{name}={value}" for name, value in environ.items()]
    ran = subprocess.run(
        ["env", "-u", "PYTHONUNBUFFERED", *assigned, "bash", "-c", words],
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert "Traceback" not in ran.stderr
    return ran


@pytest.mark.parametrize("how", [">/dev/full", ">&-", "| true"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("options", ["", "--json"])
def test_a_key_that_cant_be_shown_is_told_by_its_id(
    state: str, how: str, unbuffered: str, options: str
) -> None:
    create = f"gateway keys create {options} {state} {how}; exit ${{PIPESTATUS[0]}}"
    ran = shell(create, PYTHONUNBUFFERED=unbuffered)
    (key,) = [
        line.split()[0] for line in shell(f"gateway keys list {state}").stdout.splitlines()[1:]
    ]
    assert f"error: the key {key} exists, and its secret was not shown: rotate" in ran.stderr
    assert ran.returncode == 1


@pytest.mark.parametrize("command", ["keys list", "--version", "plan --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(state: str, command: str, unbuffered: str) -> None:
    options = state if command == "keys list" else ""
    ran = shell(f"gateway {command} {options} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (ran.returncode, ran.stderr) == (1, "error: can't write: No space left on device\n")


def test_a_closed_stdout_is_one_line(state: str) -> None:
    ran = shell(f"gateway keys list {state} >&-")
    assert (ran.returncode, ran.stderr) == (1, "error: can't write: Bad file descriptor\n")


def test_an_answer_that_cant_be_written_is_exit_code_1() -> None:
    for how in (">&-", ">/dev/full"):
        ran = shell(f"echo hi | gateway chat {SIMULATED} {how}")
        assert ran.returncode == 1
        assert "error: can't write" in ran.stderr


def test_who_reads_no_more_is_told_nothing(state: str) -> None:
    ran = shell(f"gateway keys list {state} | true; exit ${{PIPESTATUS[0]}}")
    assert ran.stderr == ""


def test_a_closed_stdin_has_nobody_to_ask(state: str) -> None:
    assert "stdin is empty" in shell(f"gateway chat {SIMULATED} <&-").stderr
    shell(f"gateway teams create t {state}")
    shell(f"gateway keys create --team t {state}")
    ran = shell(f"gateway teams delete t {state} <&-")
    assert ran.returncode == 2
    assert "add --yes" in ran.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_stdout_has_no_character_for_is_replaced(state: str, encoding: str) -> None:
    shell(f"gateway keys create {state}")
    ran = shell(f"gateway keys list {state}", PYTHONIOENCODING=encoding)
    assert ran.returncode == 0
    assert "sk-gw-?" in ran.stdout
    assert shell("gateway plan --help", PYTHONIOENCODING=encoding).returncode == 0


def test_an_api_key_of_other_characters_is_refused() -> None:
    ran = shell("echo hi | gateway chat --url http://127.0.0.1:1 --api-key 'ü€'")
    assert ran.returncode == 1
    assert "the API key has characters that no key has" in ran.stderr
