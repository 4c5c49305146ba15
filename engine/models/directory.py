"""What makes a directory a model: configuration, tokenizer, weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from engine.models.errors import ModelError

CONFIGS = ("config.json", "params.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model*", "tekken.json", "vocab.json", "*.tiktoken")
PICKLED = ("pytorch_model*.bin",)


def weight_files(names: Iterable[str]) -> list[str]:
    """The one complete set of weights among top-level file names, in order of preference:
    safetensors, Mistral's consolidated safetensors, pickled PyTorch files."""
    top_level = sorted(name for name in names if "/" not in name)
    safetensors = [name for name in top_level if name.endswith(".safetensors")]
    sharded = [name for name in safetensors if not name.startswith("consolidated")]
    pickled = [name for name in top_level if _matches(name, PICKLED)]
    return sharded or safetensors or pickled


def check_directory(path: Path, *, weights: bool = True) -> None:
    """Raise ModelError, naming everything that is missing, unless `path` holds a model."""
    if not path.exists():
        raise ModelError(f"{path}: no such directory")
    if not path.is_dir():
        raise ModelError(
            f"{path}: not a directory; a model has config.json, a tokenizer and weights"
        )
    names = [file.name for file in path.iterdir()]
    if "adapter_config.json" in names and not set(CONFIGS) & set(names):
        raise ModelError(f"{path}: a LoRA adapter; give the model it was trained on instead")
    missing = []
    if not set(CONFIGS) & set(names):
        missing.append("config.json")
    if not any(_matches(name, TOKENIZERS) for name in names):
        missing.append("a tokenizer (tokenizer.json, tokenizer.model or tekken.json)")
    if weights:
        missing += _missing_weights(path, names)
    if missing:
        raise ModelError(f"{path} is not a complete model, it lacks {', '.join(missing)}")


def _missing_weights(path: Path, names: list[str]) -> list[str]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted(set(indexed_files(index)) - set(names))
        return missing if len(missing) <= 3 else [*missing[:3], f"{len(missing) - 3} more shards"]
    return [] if weight_files(names) else ["weights (*.safetensors)"]


def indexed_files(index: Path) -> list[str]:
    """The shards that a `model.safetensors.index.json` names."""
    try:
        return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index}: not an index of safetensors shards") from None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
