"""Names, local directories, and which files of a repository are wanted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models import ModelError, resolve
from engine.models.directory import weight_files
from engine.models.hub import wanted_files


def model_directory(path: Path, *names: str) -> Path:
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_text("{}")
    return path


def test_a_local_directory_resolves_to_itself(tmp_path: Path) -> None:
    path = model_directory(tmp_path / "m", "config.json", "tokenizer.json", "model.safetensors")
    resolved = resolve(str(path))
    assert (resolved.path, resolved.name, resolved.source) == (path, str(path), "local")


def test_a_directory_wins_over_a_hub_id_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    model_directory(tmp_path / "org/name", "config.json", "tokenizer.json", "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name").path == tmp_path / "org/name"


def test_mistral_format_is_a_model_too(tmp_path: Path) -> None:
    path = model_directory(tmp_path / "m", "params.json", "tekken.json", "consolidated.safetensors")
    assert resolve(str(path)).source == "local"


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (("tokenizer.json", "model.safetensors"), ["config.json"]),
        (("config.json", "model.safetensors"), ["tokenizer"]),
        (("config.json", "tokenizer.json"), ["*.safetensors"]),
        ((), ["config.json", "tokenizer", "*.safetensors"]),
    ],
)
def test_what_a_directory_lacks_is_named(
    tmp_path: Path, present: tuple[str, ...], missing: list[str]
) -> None:
    path = model_directory(tmp_path / "m", *present)
    with pytest.raises(ModelError) as caught:
        resolve(str(path))
    assert str(path) in str(caught.value)
    assert all(word in str(caught.value) for word in missing)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = model_directory(
        tmp_path / "m", "config.json", "tokenizer.json", "model-00001-of-00002.safetensors"
    )
    shards = {f"t{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors"):
        resolve(str(path))


def test_random_weights_need_no_weight_files(tmp_path: Path) -> None:
    path = model_directory(tmp_path / "m", "config.json", "tokenizer.json")
    assert resolve(str(path), weights=False).path == path


def test_an_adapter_is_not_taken_for_a_model(tmp_path: Path) -> None:
    path = model_directory(tmp_path / "m", "adapter_config.json", "adapter_model.safetensors")
    with pytest.raises(ModelError, match="LoRA adapter"):
        resolve(str(path))


def test_a_file_is_not_taken_for_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="not a directory"):
        resolve(str(file))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_path_that_does_not_exist_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(ModelError, match="no such directory"):
        resolve(name)


@pytest.mark.parametrize("name", ["has space", "org/na me", "a..b", "-x/y", "org/", "ümlaut/x"])
def test_what_can_not_be_a_hub_id_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="neither an existing directory nor a Hugging Face id"):
        resolve(name)


def test_a_misspelt_embedded_name_is_corrected() -> None:
    with pytest.raises(ModelError, match="did you mean 'smollm2-135m-instruct'"):
        resolve("smollm2-135m-instrukt")


def test_the_usual_repository_gives_one_set_of_weights() -> None:
    listed = [
        ".gitattributes",
        "README.md",
        "config.json",
        "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "onnx/model.onnx",
        "original/consolidated.00.pth",
        "params.json",
        "pytorch_model-00001-of-00002.bin",
        "tokenizer.json",
        "tokenizer.model.v3",
    ]
    assert wanted_files(listed) == [
        "config.json",
        "model.safetensors.index.json",
        "params.json",
        "tokenizer.json",
        "tokenizer.model.v3",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


names = st.sampled_from(
    [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "consolidated.safetensors",
        "consolidated-00001-of-00002.safetensors",
        "pytorch_model.bin",
        "training_args.bin",
        "original/model.safetensors",
        "model.gguf",
        "config.json",
    ]
)


@given(st.lists(names, unique=True))
def test_weights_come_once_and_from_the_top_level(listed: list[str]) -> None:
    found = weight_files(listed)
    assert set(found) <= set(listed)
    assert all("/" not in name for name in found)
    kinds = {(name.endswith(".safetensors"), name.startswith("consolidated")) for name in found}
    assert len(kinds) <= 1
    loadable = {"model.safetensors", "consolidated.safetensors", "pytorch_model.bin"}
    assert found or not loadable & set(listed)


def test_importing_models_loads_no_heavy_library() -> None:
    script = (
        "import sys, engine.models; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'huggingface_hub')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
