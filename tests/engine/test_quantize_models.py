"""Quantizing a tiny model for real, what vLLM makes of it, and what happens where it goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from engine import vllm_engine
from engine.base import GenerateRequest, SamplingOptions
from engine.config import EngineConfig
from engine.models import ConsoleProgress, read_facts
from engine.quantize import (
    Calibration,
    QuantizeError,
    Settings,
    SettingsError,
    choose_settings,
    default_calibration,
    quantize,
)
from engine.quantize.packages import VARIABLE, find_packages, has_pip
from engine.quantize.quantizing import REPORT
from engine.streaming import generate
from tests.engines import Engines
from tests.support.int4 import read_awq, read_compressed, read_gptq

PROGRESS = ConsoleProgress()
LAYER = "model.layers.0.mlp.up_proj"
TEXT = "The quick brown fox jumps over the lazy dog, sleeps a little, and goes home."


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of 64 features; random, so that every rounding shows."""
    from tests.support.checkpoints import make_llama

    return make_llama(checkpoint("smollm2"), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The tiny model quantized by a method, once; the first installs llm-compressor."""
    try:
        find_packages(PROGRESS)
    except QuantizeError as error:
        pytest.skip(f"llm-compressor can't be installed here: {error}")
    done: dict[str, Path] = {}

    def find(method: Any, **asked: Any) -> Path:
        key = f"{method} {asked}"
        if key not in done:
            amount: dict[str, Any] = {}
            if method in ("awq", "gptq"):
                amount = {"samples": 2, "sequence_length": 32}
            done[key] = tmp_path_factory.mktemp("quantized") / "made"
            make(tiny, done[key], choose_settings(method, **asked, **amount))
        return done[key]

    return find


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for packages that stand in for llm-compressor's."""
    path = tmp_path / "packages"
    for name in ("llmcompressor", "compressed_tensors"):
        (path / name).mkdir(parents=True)
        (path / name / "__init__.py").touch()
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def make(tiny: Path, output: Path, settings: Settings, **options: Any) -> dict[str, Any]:
    text = None
    if settings.calibrated:
        text = Calibration("test", default_calibration().documents[:20])
    return quantize(str(tiny), output, settings, text, PROGRESS, **options)


def layer(path: Path) -> dict[str, torch.Tensor]:
    return parts(load_file(path / "model.safetensors"), LAYER)


def parts(tensors: dict[str, torch.Tensor], module: str) -> dict[str, torch.Tensor]:
    """Those of one layer, by what they are of it."""
    return {
        name.rpartition(".")[2]: tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{module}.")
    }


def weights(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a quantized layer means: float32 [out, in]."""
    if "qweight" in tensors:
        return torch.from_numpy((read_gptq if "g_idx" in tensors else read_awq)(tensors)).float()
    return tensors["weight"].float() * tensors["weight_scale"].float()


def distance(made: np.ndarray[Any, Any], tiny: Path) -> float:
    """Of the layer's weights from the model's own, relative."""
    original = load_file(tiny / "model.safetensors")[f"{LAYER}.weight"].float().numpy()
    return float(np.linalg.norm(made - original) / np.linalg.norm(original))


def report(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / REPORT).read_text())
    return found


def description(path: Path) -> str:
    quantization = read_facts(path).quantization
    return quantization.describe() if quantization else "unquantized"


# What is made


def test_awq_in_its_own_format_means_what_llm_compressor_wrote(made: Callable[..., Path]) -> None:
    own, theirs = layer(made("awq")), layer(made("awq", format="compressed-tensors"))
    assert set(own) == {"qweight", "qzeros", "scales"}
    np.testing.assert_array_equal(read_awq(own), read_compressed(theirs))
    assert description(made("awq")) == "awq, 4 bits, groups of 64"


def test_gptq_stays_near_the_weights_it_was_made_from(
    made: Callable[..., Path], tiny: Path
) -> None:
    path = made("gptq", group_size=32)
    assert 0 < distance(read_gptq(layer(path)), tiny) < 0.2
    assert description(path) == "gptq, 4 bits, groups of 32"
    assert report(path)["group_size"] == 32
    assert report(path)["calibration"]["samples"] == 2


@pytest.mark.parametrize("method", ["w8a8", "fp8"])
def test_eight_bits_stay_near_the_weights_and_need_no_text(
    made: Callable[..., Path], tiny: Path, method: str
) -> None:
    assert 0 < distance(weights(layer(made(method))).numpy(), tiny) < 0.05
    assert description(made(method)) == "compressed-tensors, 8 bits"
    assert report(made(method))["calibration"] is None


def test_a_checkpoint_has_all_that_serving_needs_and_a_report(
    made: Callable[..., Path], tiny: Path
) -> None:
    path = made("fp8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (path / name).read_bytes() == (tiny / name).read_bytes()
    found = report(path)
    assert set(found["versions"]) > {"llmcompressor", "compressed-tensors", "torch"}
    assert found["bytes"]["after"] < found["bytes"]["before"]
    assert [other.name for other in path.parent.iterdir()] == ["made"]


# What vLLM makes of it


async def served(path: Path, dtype: Any, engines: Engines) -> tuple[list[int], list[float]]:
    """A text's tokens, and vLLM's log-probabilities of all but the first."""
    await engines.stop()
    config = EngineConfig(
        model="made",
        dtype=dtype,
        max_model_len=256,
        kv_cache_gib=0.1,
        compile="off",
        warmup=False,
    )
    engine = await vllm_engine.start(config, str(path))
    try:
        prompt = await engine.render(TEXT)
        sampling = SamplingOptions(temperature=0.0, max_tokens=1, logprobs=0, prompt_logprobs=0)
        request = GenerateRequest("quantized", prompt, sampling)
        deltas = [delta async for delta in generate(engine, request)]
    finally:
        await engine.close()
    scored = [one.logprob for delta in deltas for one in delta.prompt_logprobs]
    return list(prompt.token_ids), [one for one in scored if one is not None]


def computed(tokens: list[int], tiny: Path, path: Path) -> list[float]:
    """The same by transformers, in float32, with the weights that lie in `path`."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    tensors = load_file(path / "model.safetensors")
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            found = parts(tensors, name)
            module.weight.data = weights(found)
            if "weight" in found:
                module.register_forward_pre_hook(rounded_to(found["weight"].dtype))
        elif f"{name}.weight" in tensors:
            module.weight.data = tensors[f"{name}.weight"].float()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1]
    scores = logits.log_softmax(-1).gather(-1, torch.tensor(tokens[1:])[:, None])
    return [float(score) for score in scores[:, 0]]


def rounded_to(dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """What 8-bit methods do to the inputs of a layer: one scale for each token."""
    whole = dtype == torch.int8
    largest = torch.iinfo(dtype).max if whole else torch.finfo(dtype).max

    def hook(_: Any, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        scale = inputs[0].abs().amax(-1, keepdim=True) / largest
        values = inputs[0] / scale
        return (values.round() if whole else values.to(dtype).float()) * scale

    return hook


# The kernels of 4 bits compute in float16.
@pytest.mark.engine
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("method", "dtype", "within"),
    [
        ("awq", "auto", 0.03),
        ("gptq", "auto", 0.03),
        ("w8a8", "float32", 1e-4),
        ("fp8", "float32", 1e-4),
    ],
)
async def test_vllm_computes_with_the_weights_that_were_written(
    made: Callable[..., Path], tiny: Path, engines: Engines, method: str, dtype: str, within: float
) -> None:
    path = made(method)
    tokens, scores = await served(path, dtype, engines)
    expected = computed(tokens, tiny, path)
    assert len(scores) == len(tokens) - 1
    assert scores == pytest.approx(expected, abs=within)


# What goes wrong


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("torch", "raise ImportError('no such torch')", "no such torch"),
        ("torch", "import os; os.kill(os.getpid(), 9)", "killed by signal 9.*short of memory"),
    ],
)
def test_a_process_that_dies_says_why_and_leaves_nothing(
    tiny: Path, tmp_path: Path, packages: Path, module: str, source: str, said: str
) -> None:
    (packages / f"{module}.py").write_text(source)
    with pytest.raises(QuantizeError, match=said) as caught:
        make(tiny, tmp_path / "made", choose_settings("fp8"))
    log = Path(str(caught.value).rpartition(" ")[2])
    assert log.is_file()
    log.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


def test_what_exists_is_not_overwritten_unasked(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / REPORT).touch()
    with pytest.raises(SettingsError, match="--overwrite"):
        make(tiny, tmp_path / "made", choose_settings("fp8"))


def test_what_was_not_made_here_is_never_overwritten(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SettingsError, match="was not made by this command"):
        make(tiny, tmp_path, choose_settings("fp8"), overwrite=True)
    assert (tmp_path / "thesis.txt").is_file()


def test_a_place_that_can_not_be_moved_is_refused_before_anything_is_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(SettingsError, match="is a symbolic link"):
        make(tiny, tmp_path / "link", choose_settings("fp8"))
    with pytest.raises(SettingsError, match="is a mount point"):
        make(tiny, Path("/proc"), choose_settings("fp8"), overwrite=True)
    monkeypatch.chdir(tmp_path / "real")
    with pytest.raises(SettingsError, match="holds the working directory"):
        make(tiny, Path("."), choose_settings("fp8"))


def test_an_old_checkpoint_is_replaced_when_the_new_one_is_whole(
    made: Callable[..., Path], tiny: Path, tmp_path: Path
) -> None:
    output = tmp_path / "made"
    output.mkdir()
    (output / REPORT).touch()
    (output / "stale").touch()
    make(tiny, output, choose_settings("fp8"), overwrite=True)
    assert report(output)["method"] == "fp8"
    assert not (output / "stale").exists()
    assert list(tmp_path.iterdir()) == [output]


def test_a_model_that_is_quantized_already_is_refused(
    made: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"quantized already \(awq\)"):
        make(made("awq"), tmp_path / "again", choose_settings("fp8"))


def test_packages_that_are_named_must_be_there(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(QuantizeError, match=f"{VARIABLE}=.* does not hold llmcompressor"):
        make(tiny, tmp_path / "made", choose_settings("fp8"))


@pytest.mark.skipif(not has_pip(), reason="this Python has no pip")
def test_without_an_index_the_way_to_bring_the_packages_is_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(QuantizeError, match="No matching distribution") as caught:
        make(tiny, tmp_path / "made", choose_settings("fp8"))
    assert "pip download" in str(caught.value)
    assert "PIP_FIND_LINKS=wheels" in str(caught.value)
    assert list((tmp_path / "cache" / "gateway" / "quantize").iterdir()) == []
