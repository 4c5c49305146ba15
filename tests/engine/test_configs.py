"""The shipped configurations: each is valid and fits the machine it names."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.config import EMBEDDED_MODEL, EngineConfig
from engine.models import MemoryPlan, find_facts, plan_memory
from gateway.config import GatewayConfig, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
SEVERAL = "several-models"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != SEVERAL)


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to be downloaded or converted here must not change the outcome."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def load(name: str, **overrides: object) -> GatewayConfig:
    return load_config(CONFIGS / f"{name}.yaml", overrides, environ={})


def plan(config: GatewayConfig) -> MemoryPlan:
    assert config.hardware is not None
    return plan_memory(find_facts(config.engine.model), config.engine, config.hardware)


def test_the_promised_configurations_are_there() -> None:
    assert NAMES == [
        "default",
        "llama-3.1-8b-awq",
        "llama-3.2-1b-fp16",
        "mistral-7b-awq",
        "mistral-7b-fp16",
        "t4-mistral-7b-awq",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_fits_its_hardware(name: str) -> None:
    found = plan(load(name))
    assert found.problems == ()
    assert found.max_sequences >= found.sequences


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_made_too_large_does_not_fit(name: str) -> None:
    config = load(name, **{"engine.max_num_seqs": 256, "hardware.tokens_per_sequence": 2048})
    assert any("KV cache lacks" in problem for problem in plan(config).problems)


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_does_not_fit_hardware_that_is_too_small(name: str) -> None:
    config = load(name, **{"hardware.memory_gib": 2})
    assert any("alone exceed the budget" in problem for problem in plan(config).problems)


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_of_the_engine_is_explained(name: str) -> None:
    lines = (CONFIGS / f"{name}.yaml").read_text("utf-8").splitlines()
    assert lines[0].startswith("# ")
    engine = lines[lines.index("engine:") : lines.index("server:")]
    keys = [number for number, line in enumerate(engine) if line.strip()[:1].isalpha()][1:]
    unexplained = [engine[key] for key in keys if not engine[key - 1].startswith("  #")]
    assert unexplained == []


def test_the_default_runs_the_embedded_model_on_this_machine_only() -> None:
    config = load("default")
    assert config.engine.model == EMBEDDED_MODEL
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8000)


def test_several_models_are_one_that_chats_and_one_that_embeds() -> None:
    config = load(SEVERAL)
    assert [model.engine.runner for model in config.served] == ["generate", "pooling"]
    assert config.server.host == "127.0.0.1"


def test_the_t4_configuration_holds_32_sequences_of_256_tokens_without_bfloat16() -> None:
    config = load("t4-mistral-7b-awq")
    assert config.hardware is not None
    assert config.hardware.memory_gib <= 15
    assert config.hardware.tokens_per_sequence == 256
    assert config.engine.dtype == "float16"
    assert plan(config).max_sequences >= 32


@pytest.mark.parametrize("name", [name for name in NAMES if "fp16" in name or "awq" in name])
def test_the_dtype_is_what_the_name_promises(name: str) -> None:
    config = load(name)
    quantization = find_facts(config.engine.model).quantization
    assert config.engine.dtype == "float16"
    assert (quantization is not None and quantization.method == "awq") == ("awq" in name)


@pytest.mark.parametrize("method", ["int8_per_channel_weight_only", "experts_int8"])
def test_a_method_that_would_quantize_no_layer_is_refused(method: str) -> None:
    with pytest.raises(ValidationError, match="experts of mixtures alone"):
        EngineConfig(quantization=method)
