"""`gateway quantize`: its options and exit codes. What it makes is tested beside the engine."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from gateway.__main__ import app
from gateway.commands.quantize import summary

DONE, FAILED, INVALID = 0, 1, 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that looks like a model with layers of 100 features."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    layers = {"model.layers.0.mlp.up_proj.weight": np.zeros((64, 100), np.float16)}
    save_file(layers, path / "model.safetensors")
    return path


def quantize(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_help_teaches_with_examples() -> None:
    answer = quantize("--help")
    assert answer.exit_code == DONE
    assert "gateway quantize smollm2-135m-instruct --method awq -o smollm2-awq" in answer.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "nf4"], "nf4"),
        (["--method", "fp8", "--format", "awq"], "--format awq"),
        (["--method", "fp8", "--group-size", "64"], "--group-size"),
        (["--method", "fp8", "--chat"], "reads no text"),
        (["--method", "awq", "--smoothquant"], "--smoothquant"),
        (["--method", "awq", "--samples", "0"], "--samples"),
        (["--method", "awq", "--calibration", "/nowhere.jsonl"], "/nowhere.jsonl can't be read"),
        (["--method", "awq", "--calibration", "x.jsonl", "--chat"], "--chat"),
        (["--method", "awq"], "take --method w8a8 or fp8"),
    ],
)
def test_wrong_options_are_named(
    model: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    answer = quantize(model, "-o", tmp_path / "made", *options)
    assert answer.exit_code == INVALID
    assert said in answer.stderr
    assert not (tmp_path / "made").exists()


def test_an_output_that_exists_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").touch()
    answer = quantize("/nowhere/model", "--method", "fp8", "-o", tmp_path / "made")
    assert answer.exit_code == INVALID
    assert "--overwrite" in answer.stderr


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    answer = quantize("/nowhere/model", "--method", "fp8", "-o", tmp_path / "made")
    assert answer.exit_code == INVALID
    assert "/nowhere/model" in answer.stderr


def test_a_quantization_that_fails_ends_with_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_QUANTIZE_PACKAGES", str(tmp_path))
    answer = quantize(model, "--method", "fp8", "-o", tmp_path / "made")
    assert answer.exit_code == FAILED
    assert "GATEWAY_QUANTIZE_PACKAGES" in answer.stderr


def test_a_disk_that_is_full_is_an_error_and_no_traceback(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("engine.quantize.quantize", fail)
    answer = quantize(model, "--method", "fp8", "-o", tmp_path / "made")
    assert answer.exit_code == FAILED
    assert "No space left on device" in answer.stderr


def test_json_prints_the_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {
        "method": "fp8",
        "group_size": None,
        "bytes": {"before": 2_000_000, "after": 1_000_000},
        "seconds": {"total": 12.3},
    }
    monkeypatch.setattr("engine.quantize.quantize", lambda *_, **__: report)
    arguments = (model, "--method", "fp8", "-o", tmp_path / "made")
    assert json.loads(quantize(*arguments, "--json").stdout) == report
    said = quantize(*arguments).stdout
    assert said == summary(report, tmp_path / "made") + "\n"
    assert "1 MB of weights instead of 2 MB" in said
    assert f"gateway serve --model {tmp_path / 'made'}" in said


def test_sigterm_ends_the_quantizing_process_too_and_leaves_nothing(
    model: Path, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    for name in ("llmcompressor", "compressed_tensors"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").touch()
    os.mkfifo(tmp_path / "started")
    started = os.open(tmp_path / "started", os.O_RDONLY | os.O_NONBLOCK)
    source = f"import os, time\nopen({str(tmp_path / 'started')!r}, 'w').write(str(os.getpid()))\n"
    (packages / "torch.py").write_text(source + "time.sleep(600)\n")
    output = tmp_path / "out" / "made"
    command = [sys.executable, "-m", "gateway", "quantize", str(model)]
    with subprocess.Popen(
        [*command, "--method", "fp8", "-o", str(output)],
        env={**os.environ, "GATEWAY_QUANTIZE_PACKAGES": str(packages)},
        stderr=subprocess.PIPE,
    ) as program:
        if not select.select([started], [], [], 120)[0]:
            program.kill()
        worker = int(os.read(started, 32))
        program.terminate()
        assert program.wait(60) == 128 + signal.SIGTERM
    os.close(started)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert list(output.parent.iterdir()) == []
