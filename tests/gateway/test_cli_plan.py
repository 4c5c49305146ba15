"""`gateway plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.models import find_facts
from engine.planning import Load, Machine, Reached, shapes_of
from gateway.__main__ import app

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """No model is on this machine, and no hub in reach."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return CliRunner()


def test_the_t4_question_is_answered_with_its_arithmetic(cli: CliRunner) -> None:
    options = ["--gpu", "t4", "--concurrency", "32", "--target-tokens-per-s", "200"]
    answer = cli.invoke(app, ["plan", "--model", MISTRAL, *options])
    assert answer.exit_code == 0, answer.output
    assert "doesn't compute in bf16" in answer.stdout
    assert "weights and overhead alone exceed the budget" in answer.stdout
    assert "Take w8a8" in answer.stdout
    assert "These reach it: fp8, w8a8, awq, gptq." in answer.stdout
    assert "decode step of 32 at 192 tokens of context" in answer.stdout
    assert "(320 GB/s x 0.52)" in answer.stdout
    assert "NVIDIA T4 datasheet" in answer.stdout


def test_json_tells_bytes_seconds_and_tokens_per_second(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["plan", "-m", MISTRAL, "--gpu", "a10", "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    rows = {row["precision"]: row for row in found["rows"]}
    assert found["take"] == "bf16"
    assert rows["fp16"]["memory"]["kv_per_token"] == 131072
    assert rows["fp16"]["prediction"]["decode_step_s"] > 0
    assert rows["fp16"]["prediction"]["arithmetic"]
    assert found["load"] == {"concurrency": 32, "input_tokens": 128, "output_tokens": 128}


def test_what_does_not_fit_is_exit_code_3(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["plan", "-m", MISTRAL, "--gpu", "t4", "--precision", "fp16"])
    assert answer.exit_code == 3
    assert "None fits" in answer.stdout


def test_a_target_out_of_reach_is_exit_code_3_and_says_what_is_in_reach(cli: CliRunner) -> None:
    options = ["--gpu", "t4", "--target-tokens-per-s", "100000"]
    answer = cli.invoke(app, ["plan", "-m", MISTRAL, *options])
    assert answer.exit_code == 3
    assert "None reaches 100000 output tokens/s: the most is" in answer.stdout


def test_where_no_precision_runs_it_says_so(cli: CliRunner) -> None:
    answer = cli.invoke(app, ["plan", "-m", MISTRAL, "--gpu", "t4", "--precision", "bf16"])
    assert answer.exit_code == 3
    assert "None runs here; each row says why." in answer.stdout


def test_a_target_is_not_denied_where_no_speed_is_known(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = Reached(20e9, 300e9, 600e9, 25e9, 50e9, 40e-6, 400e-6)
    shapes = shapes_of(find_facts("smollm2-135m-instruct"), Load(32, 128, 128))
    machine = Machine(memory_gib=16.0, threads=2, shapes=shapes, reached={"bf16": reached})
    monkeypatch.setattr("engine.planning.measure", lambda *_, **__: machine)
    answer = cli.invoke(app, ["plan", "--precision", "awq", "--target-tokens-per-s", "100"])
    assert answer.exit_code == 3
    assert "Whether one reaches 100 output tokens/s can't be told" in answer.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpu", "v100"], "--gpu v100: not known here; one of t4, a10"),
        (["--gpu", "t4", "--precision", "int3"], "--precision int3"),
        (["--gpu", "t4", "--gpus", "3"], "--gpus 3: layers are split over 1, 2, 4, 8"),
        (["--gpus", "2"], "--gpus: a CPU is one device"),
        (["--gpu", "t4", "-m", "org/unheard-of"], "org/unheard-of: its shapes are not known here"),
        (["--gpu", "t4", "-m", "./nothing"], "nothing"),
    ],
)
def test_what_can_not_be_planned_is_exit_code_2(
    cli: CliRunner, options: list[str], said: str
) -> None:
    answer = cli.invoke(app, ["plan", *options])
    assert answer.exit_code == 2
    assert said in answer.stderr
    as_json = cli.invoke(app, ["plan", *options, "--json"])
    assert said in json.loads(as_json.stdout)["error"]


def test_a_directory_with_nothing_but_a_config_can_be_planned(
    cli: CliRunner, tmp_path: Path
) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
        "dtype": "float16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    answer = cli.invoke(app, ["plan", "-m", str(tmp_path), "--gpu", "l4", "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["take"] == "fp16"


def test_without_options_it_is_the_embedded_model_on_this_cpu(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = Reached(20e9, 300e9, 600e9, 25e9, 50e9, 40e-6, 400e-6)
    asked: list[object] = []

    def measured(*what: object, **given: object) -> Machine:
        asked.extend([*what, given])
        shapes = shapes_of(find_facts("smollm2-135m-instruct"), Load(32, 128, 128))
        return Machine(memory_gib=16.0, threads=2, shapes=shapes, reached={"bf16": reached})

    monkeypatch.setattr("engine.planning.measure", measured)
    answer = cli.invoke(app, ["plan", "--cpu-bandwidth", "20"])
    assert answer.exit_code == 0, answer.output
    assert "this CPU, 2 threads" in answer.stdout
    assert "Take bf16: the weights fit as they are" in answer.stdout
    assert "150 operators x 40 µs" in answer.stdout
    assert asked[-1] == {"bandwidth_gb": 20.0, "gflops": None}


@pytest.mark.parametrize("number", ["inf", "nan"])
@pytest.mark.parametrize(
    "option", ["--memory-gib", "--target-tokens-per-s", "--cpu-bandwidth", "--cpu-flops"]
)
def test_infinity_is_no_number_to_plan_with(cli: CliRunner, option: str, number: str) -> None:
    answer = cli.invoke(app, ["plan", "--gpu", "t4", option, number])
    assert answer.exit_code == 2, answer.output
