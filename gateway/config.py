"""Configuration: frozen models, read from YAML, overridden by environment variables.

A variable `GATEWAY_SERVER__PORT=8100` sets `server.port`; two underscores step down one level,
and the value is read as YAML. Errors name the source, the key and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from engine.config import EngineConfig, Frozen

ENV_PREFIX = "GATEWAY_"


class ConfigError(Exception):
    """A configuration that can't be used; the message is ready to print."""


class ServerConfig(Frozen):
    """The HTTP side. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free port")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    max_header_bytes: int = Field(32 * 1024, ge=1024)
    header_timeout_s: float = Field(10.0, gt=0, description="to receive all request headers")
    body_timeout_s: float = Field(30.0, gt=0, description="to receive the whole body")
    keep_alive_s: float = Field(75.0, gt=0, description="an idle connection is kept this long")
    write_timeout_s: float = Field(
        60.0, gt=0, description="a client that reads nothing for so long is cut off"
    )
    write_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="of one core's time, at most so much goes into writing events; with more "
        "streams than that allows, a stream's tokens share events; 1: each is an event",
    )
    drain_grace_s: float = Field(
        30.0,
        ge=0,
        description="after SIGTERM running requests may take so long to finish",
    )
    max_connections: int = Field(4096, ge=1)
    docs: bool = Field(True, description="serve /docs and /openapi.json")


class AdmissionConfig(Frozen):
    """How much work is taken at once."""

    max_requests: int = Field(
        1024,
        ge=1,
        description="requests in the gateway at once; more get 429 with retry-after",
    )


class ApiKeyConfig(Frozen):
    """One accepted key: `env` names a variable that holds it, or `sha256` is its hex digest."""

    name: str = Field(min_length=1, max_length=64)
    env: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one_source(self) -> ApiKeyConfig:
        if (self.env is None) == (self.sha256 is None):
            raise ValueError("give exactly one of 'env' (a variable's name) and 'sha256'")
        return self


class AuthConfig(Frozen):
    """Who may call. With no keys every caller is `anonymous`."""

    api_keys: tuple[ApiKeyConfig, ...] = ()


class HardwareConfig(Frozen):
    """The machine a configuration is written for; `gateway check` computes whether it fits."""

    name: str = Field(min_length=1, description="for people, e.g. 'NVIDIA T4'")
    device: Literal["gpu", "cpu"] = "gpu"
    memory_gib: float = Field(gt=0, description="memory of one device")
    tokens_per_sequence: int = Field(
        ge=1,
        description="prompt + completion of a typical request, to size the KV cache",
    )


class HealthConfig(Frozen):
    """When a living engine counts as stuck."""

    stall_s: float = Field(
        60.0,
        gt=0,
        description="not ready where requests run but no step ended for so long",
    )


class GatewayConfig(Frozen):
    """The whole program's configuration; see `configs/` for commented examples."""

    model_name: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="public name; default: the engine's model",
    )
    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()
    admission: AdmissionConfig = AdmissionConfig()
    auth: AuthConfig = AuthConfig()
    health: HealthConfig = HealthConfig()
    hardware: HardwareConfig | None = None
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")

    @property
    def public_name(self) -> str:
        """What clients put in `model`."""
        return self.model_name or self.engine.model


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
            # A mistyped key must not reach a log.
            got = "" if item["loc"][:1] == ("auth",) else f" (got {item['input']!r})"
            lines.append(f"{source}: {key}: {item['msg']}{got}")
    return "\n".join(lines)


def _allowed(loc: tuple[int | str, ...]) -> str:
    model: Any = GatewayConfig
    for part in loc[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
    return ", ".join(getattr(model, "model_fields", {})) or "see configs/default.yaml"
