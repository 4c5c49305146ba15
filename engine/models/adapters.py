"""LoRA adapters: from what a configuration names to a directory an engine can load."""

from __future__ import annotations

import json
from pathlib import Path

from engine.models.errors import ModelError
from engine.models.progress import ConsoleProgress, Progress
from engine.models.resolution import check_hub_id, looks_local

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def resolve_adapter(name: str, progress: Progress | None = None) -> Path:
    """Find a local directory, or fetch a Hugging Face id. Blocks. Raises ModelError."""
    if looks_local(name):
        path = Path(name).expanduser().resolve()
        check_adapter(path)
        return path
    check_hub_id(name)
    from engine.models.hub import download

    return download(name, None, progress or ConsoleProgress(), check=check_adapter)


def check_adapter(path: Path, *, weights: bool = True) -> None:
    """Raise ModelError, naming what is wrong, unless `path` holds a LoRA adapter in PEFT's format.

    Its weights have to be safetensors: pickled ones can run code.
    """
    if not path.is_dir():
        raise ModelError(f"{path}: no such directory; an adapter has {CONFIG} and {WEIGHTS}")
    wanted = (CONFIG, WEIGHTS) if weights else (CONFIG,)
    missing = [name for name in wanted if not (path / name).is_file()]
    if missing:
        raise ModelError(f"{path} is not a LoRA adapter, it lacks {', '.join(missing)}")
    try:
        settings = json.loads((path / CONFIG).read_text("utf-8"))
        kind, rank = settings["peft_type"], settings["r"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{path / CONFIG}: not an adapter's configuration") from None
    if kind != "LORA" or not isinstance(rank, int):
        raise ModelError(f"{path}: expected a LoRA adapter, found {kind!r} of rank {rank!r}")
