"""Configurations of several simulated models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

ADMIN_KEY = "a" * 32
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
ADMIN_KEYS = [{"name": "root", "sha256": hashlib.sha256(ADMIN_KEY.encode()).hexdigest()}]


def simulated(**engine: Any) -> dict[str, Any]:
    """Settings of a fast simulated engine."""
    return {
        "kind": "simulated",
        "max_model_len": 512,
        "simulated": {"step_ms": 1, "prefill_ms_per_token": 0, **engine.pop("simulated", {})},
        **engine,
    }


def chat_model(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "engine": simulated(), **fields}


def embedder(name: str = "embedder", **engine: Any) -> dict[str, Any]:
    return {"name": name, "engine": simulated(runner="pooling", **engine)}


def make_adapter(directory: Path, rank: int = 8) -> Path:
    """What looks like a LoRA adapter to all but an engine that reads its weights."""
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "r": {rank}}}')
    (directory / "adapter_model.safetensors").write_bytes(b"")
    return directory
