"""`gateway check`, and what all commands share: help, version, configuration errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway import __version__
from gateway.__main__ import app
from gateway.commands import shipped_configs

CONFIGS = shipped_configs()
assert CONFIGS is not None
SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """No model is on this machine: what is known of one comes with the program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return CliRunner()


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_is_valid_and_fits(cli: CliRunner, name: str) -> None:
    answer = cli.invoke(app, ["check", f"{CONFIGS}/{name}.yaml", "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["valid"]
    assert found["fits"] is True


def test_a_shipped_configuration_is_found_by_its_name(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["check", "t4-mistral-7b-awq"])
    assert answer.exit_code == 0
    assert "NVIDIA T4" in answer.stdout
    assert "32 sequences x 256 tokens" in answer.stdout


def test_what_does_not_fit_is_exit_code_3_and_says_what_lacks(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["check", "t4-mistral-7b-awq", "--set", "engine.max_num_seqs=2000"])
    assert answer.exit_code == 3
    assert "no: the KV cache lacks" in answer.stdout


def test_an_unknown_key_is_exit_code_2_and_named_on_stderr(cli: CliRunner, tmp_path: Path) -> None:
    path = written(tmp_path, "server: {prot: 1}")
    answer = cli.invoke(app, ["check", path])
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert f"error: {path}: server.prot: unknown key" in answer.stderr


def test_invalid_as_json_is_still_json(cli: CliRunner, tmp_path: Path) -> None:
    answer = cli.invoke(app, ["check", written(tmp_path, "engine: {dtype: int3}"), "--json"])
    assert answer.exit_code == 2
    found = json.loads(answer.stdout)
    assert found["valid"] is False
    assert "engine.dtype" in found["error"]


def test_a_missing_file_is_exit_code_2(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["check", "nowhere.yaml"])
    assert answer.exit_code == 2
    assert "nowhere.yaml" in answer.stderr


def test_a_local_model_that_is_not_there_is_invalid(cli: CliRunner, tmp_path: Path) -> None:
    answer = cli.invoke(app, ["check", written(tmp_path, "engine: {model: ./nothing/here}")])
    assert answer.exit_code == 2
    assert "nothing/here" in answer.stderr


def test_a_model_with_unknown_shapes_is_valid_and_says_it_was_not_reckoned(
    cli: CliRunner, tmp_path: Path
) -> None:
    text = "engine: {model: some/model}\nhardware: {name: x, memory_gib: 8, tokens_per_sequence: 9}"
    answer = cli.invoke(app, ["check", written(tmp_path, text), "--json"])
    assert answer.exit_code == 0
    found = json.loads(answer.stdout)
    assert found["fits"] is None
    assert "some/model" in found["memory_unknown"]


def test_an_open_server_on_the_network_is_warned_of(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["check", "default", "--set", "server.host=0.0.0.0"])
    assert answer.exit_code == 0
    assert "warning: server.host is 0.0.0.0 and no auth.api_keys are configured" in answer.stdout


def test_keys_are_listed_by_name_and_never_shown(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a-key-of-more-than-twenty-four-characters"
    monkeypatch.setenv("ALICE_KEY", secret)
    text = "auth: {api_keys: [{name: alice, env: ALICE_KEY}, {name: bob, env: BOB_KEY}]}"
    answer = cli.invoke(app, ["check", written(tmp_path, text)])
    assert answer.exit_code == 0
    assert "alice (from ALICE_KEY), bob (from BOB_KEY)" in answer.stdout
    assert "BOB_KEY must hold a key" in answer.stdout
    assert "where the server runs without, it doesn't start" in answer.stdout
    assert secret not in answer.output


@pytest.mark.parametrize(
    "given",
    [
        "server.port",
        "=1",
        "server.port=[",
        "server.port=x",
        "server.port=null",
        "server={a: 1, a: 2}",
    ],
)
def test_a_bad_assignment_is_exit_code_2(cli: CliRunner, given: str) -> None:
    answer = cli.invoke(app, ["check", "default", "--set", given])
    assert answer.exit_code == 2
    assert "error:" in answer.stderr


def test_an_assignment_that_cant_be_read_is_told_without_its_value(cli: CliRunner) -> None:
    for given in ("limits.share=[redis://:SECRET@h", "limits.share:redis://:SECRET@h"):
        answer = cli.invoke(app, ["check", "default", "--set", given])
        assert answer.exit_code == 2
        assert "SECRET" not in answer.output


def test_an_option_that_is_wrong_is_named(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["serve", "--port", "99999"])
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: --port: server.port: Input should be less")
    answer = cli.invoke(app, ["check", "default", "--set", "server.port=x"])
    assert answer.stderr.startswith("error: --set server.port: Input should be a valid integer")


def test_a_variable_that_sets_nothing_is_warned_of(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SERVER_PORT", "8100")
    answer = cli.invoke(app, ["check", "default"])
    assert "warning: the environment variable GATEWAY_SERVER_PORT sets nothing" in answer.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["keys", "list", "--set", "server.port=x"],
        ["keys", "create", "--rpm", "many"],
        ["teams", "list", "--set", "server.port=x"],
        ["usage", "--by", "nothing"],
        ["plan", "--gpu", "t5"],
        ["quantize", "m", "--method", "fp8", "-o", ".", "--group-size", "3"],
    ],
)
def test_with_json_every_error_is_an_object_too(cli: CliRunner, words: list[str]) -> None:
    answer = cli.invoke(app, [*words, "--json"])
    assert answer.exit_code == 2
    assert f"error: {json.loads(answer.stdout)['error']}\n" == answer.stderr
    assert cli.invoke(app, words).stdout == ""


@pytest.mark.parametrize("command", ["serve", "chat"])
def test_every_command_refuses_a_bad_configuration(
    cli: CliRunner, command: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "engine: [1]")
    answer = cli.invoke(app, [command, "--config", path], input="Hi")
    assert answer.exit_code == 2
    assert path in answer.stderr


@pytest.mark.parametrize("command", ["serve", "chat", "check"])
def test_help_shows_examples_and_exit_codes(cli: CliRunner, command: str) -> None:
    answer = cli.invoke(app, [command, "--help"])
    assert answer.exit_code == 0
    assert f"gateway {command} " in answer.stdout
    assert "Exit codes" in answer.stdout


def test_the_version_is_printed(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["--version"])
    assert answer.stdout == f"gateway {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    heavy = {"vllm", "torch", "transformers", "openai", "fastapi", "pydantic"}
    script = f"import sys, gateway.__main__; print(*({heavy!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
