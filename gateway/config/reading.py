"""Reading a configuration: YAML, overridden by environment variables, overridden by options.

A variable `GATEWAY_SERVER__PORT=8100` sets `server.port`; two underscores step down one level,
and the value is read as YAML. Errors name the source, the key and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from gateway.config.whole import GatewayConfig

ENV_PREFIX = "GATEWAY_"


class ConfigError(Exception):
    """A configuration that can't be used; the message is ready to print."""


def load_config(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> GatewayConfig:
    """Read `path`, then the environment, then `overrides` (dotted keys), the later winning.

    Raises ConfigError: the file can't be read, is not YAML, or a key or value is not allowed.
    """
    tree = _read_yaml(path) if path is not None else {}
    for key, value in _from_environment(os.environ if environ is None else environ).items():
        _put(tree, key, value)
    for key, value in (overrides or {}).items():
        if value is not None:
            _put(tree, key, value)
    try:
        return GatewayConfig.model_validate(tree)
    except ValidationError as error:
        source = str(path) if path is not None else "configuration"
        raise ConfigError(_explain(source, error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: can't be read: {reason}") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections at the top level")
    return tree


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Only variables that name a section or a top-level field are ours to read."""
    found: dict[str, Any] = {}
    for name, raw in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        key = name[len(ENV_PREFIX) :].lower().replace("__", ".")
        if key.split(".")[0] not in GatewayConfig.model_fields:
            continue
        try:
            found[key] = yaml.safe_load(raw)
        except yaml.YAMLError:
            raise ConfigError(f"environment variable {name}: not a valid YAML value") from None
    return found


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            child = node[parent] = {}
        node = child
    node[last] = value


def _explain(source: str, error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False, include_context=False, include_input=True):
        key = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            lines.append(f"{source}: {key}: unknown key; allowed here: {_allowed(item['loc'])}")
        else:
            # A mistyped key must not reach a log, alone or inside of a section.
            secret = item["loc"][:1] in (("auth",), ("state",))  # a URL may hold a password
            shown = not secret and not isinstance(item["input"], dict)
            got = f" (got {item['input']!r})" if shown else ""
            lines.append(f"{source}: {key}: {item['msg'].removeprefix('Value error, ')}{got}")
    return "\n".join(lines)


def _allowed(loc: tuple[int | str, ...]) -> str:
    model: Any = GatewayConfig
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
        model = next(iter(get_args(model)), model)  # of a list, or of what may be absent
    return ", ".join(getattr(model, "model_fields", {})) or "see configs/default.yaml"
