"""The README keeps up with the program."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.config import GatewayConfig

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted keys down to the second level, as the table has them."""
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if not prefix and isinstance(inner, type) and issubclass(inner, BaseModel):
            found += keys(inner, f"{name}.")
        else:
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("key", keys(GatewayConfig))
def test_the_readme_has_every_key_of_the_configuration(key: str) -> None:
    assert f"`{key}`" in README


@pytest.mark.parametrize(
    "said",
    ["make serve", "make test", "curl http://127.0.0.1:8000/v1/chat/completions"],
)
def test_the_first_screen_shows_the_two_commands_and_a_curl(said: str) -> None:
    assert said in "\n".join(README.splitlines()[:40])
