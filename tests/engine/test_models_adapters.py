"""Adapters as directories: what is one, and what is refused before an engine sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import models
from engine.models import ModelError


def test_a_directory_is_checked_before_an_engine_sees_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks adapter_config\.json"):
        models.check_adapter(tmp_path)
    with pytest.raises(ModelError, match="no such directory"):
        models.resolve_adapter(str(tmp_path / "none"))
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")  # pickled: may run code
    with pytest.raises(ModelError, match=r"lacks adapter_model\.safetensors"):
        models.check_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="not an adapter's configuration"):
        models.check_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3", "r": 8}')
    with pytest.raises(ModelError, match="found 'IA3'"):
        models.check_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    assert models.resolve_adapter(str(tmp_path)) == tmp_path.resolve()
