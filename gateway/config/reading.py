"""Reading a configuration: YAML, overridden by environment variables, overridden by options.

A variable `GATEWAY_SERVER__PORT=8100` sets `server.port`; two underscores step down one level,
and the value is read as YAML. Errors name the source, the key and what was expected, but show
nothing that may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gateway.config.whole import GatewayConfig
from gateway.config.yaml_text import parse_yaml

ENV_PREFIX = "GATEWAY_"
_SECRET_SECTIONS = ("auth", "state", "limits")
_CREDENTIALS = re.compile("://.*@", re.DOTALL)


class ConfigError(Exception):
    """A configuration that can't be used; the message is ready to print."""


class UnreachableError(ConfigError):
    """What the configuration names can't be reached now; another time it may be."""


def load_config(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> GatewayConfig:
    """Read `path`, then the environment, then `overrides` (dotted keys), the later winning.

    `options`: how an override was said, for errors. Raises ConfigError: the file can't be read, is
    not YAML, or a key or value is not allowed.
    """
    tree = _read_yaml(path) if path is not None else {}
    sources = {"": str(path) if path is not None else "configuration"}
    variables = _from_environment(os.environ if environ is None else environ)
    said = [(_dotted(name), value, name) for name, value in variables.items()]
    for key, value in (overrides or {}).items():
        said.append((key, value, (options or {}).get(key, key)))
    for key, value, source in said:
        _put(tree, key, value)
        sources = {k: v for k, v in sources.items() if not k.startswith(f"{key}.")} | {key: source}
    try:
        return GatewayConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(sources, error)) from None


def overlooked(config: GatewayConfig, environ: Mapping[str, str] | None = None) -> list[str]:
    """Warnings of variables that look like ours and set nothing: they would step down with two
    underscores, or do so from a section that there isn't."""
    meant = {_one_underscore(name): name for name in map(_variable, _keys(GatewayConfig))}
    keys = (*config.auth.api_keys, *config.auth.admin_keys)
    ours = {*meant.values(), config.auth.pepper_env, *(key.env for key in keys)}
    found = []
    for name in os.environ if environ is None else environ:
        if name in ours or not name.startswith(ENV_PREFIX):
            continue
        section, stepped, _ = _dotted(name).partition(".")
        if _one_underscore(name) in meant:
            advice = f"write {meant[_one_underscore(name)]}"
        elif stepped and section not in GatewayConfig.model_fields:
            advice = f"no section is called '{section}'"
        else:
            continue
        found.append(f"the environment variable {name} sets nothing: {advice}")
    return found


def _keys(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted keys of all fields, but not of what lists are made of."""
    for name, field in model.model_fields.items():
        yield f"{above}{name}"
        one = field.annotation
        for kind in get_args(one) if isinstance(one, UnionType) else (one,):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _keys(kind, f"{above}{name}.")


def _variable(key: str) -> str:
    return ENV_PREFIX + key.upper().replace(".", "__")


def _one_underscore(variable: str) -> str:
    return variable.replace("__", "_")


def _dotted(variable: str) -> str:
    return variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: can't be read: {reason}") from None
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections at the top level")
    return tree


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """By their names; only variables of a section or a top-level field are ours to read."""
    found: dict[str, Any] = {}
    for name, raw in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        if _dotted(name).split(".")[0] not in GatewayConfig.model_fields:
            continue
        try:
            found[name] = parse_yaml(raw)
        except ValueError as error:
            raise ConfigError(
                f"environment variable {name}: not a valid YAML value: {error}"
            ) from None
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


def _explain(sources: Mapping[str, str], error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False, include_context=False, include_input=True):
        path = [str(part) for part in item["loc"]]
        above = (".".join(path[:count]) for count in range(len(path), -1, -1))
        source = next(sources[key] for key in above if key in sources)
        key = ".".join(path) or "(top level)"
        place = source if source.endswith(f" {key}") else f"{source}: {key}"
        if item["type"] == "extra_forbidden":
            lines.append(f"{place}: unknown key; allowed here: {_allowed(item['loc'])}")
        else:
            # A mistyped key must not reach a log, alone or inside of a section, nor a password.
            given = repr(item["input"])
            secret = key.split(".")[0] in _SECRET_SECTIONS or _CREDENTIALS.search(given)
            shown = not secret and not isinstance(item["input"], dict)
            got = f" (got {given})" if shown else ""
            lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}{got}")
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
