"""Configuration: frozen models, read from YAML, overridden by environment variables.

A variable `GATEWAY_SERVER__PORT=8100` sets `server.port`; two underscores step down one level,
and the value is read as YAML. Errors name the source, the key and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from engine.config import EngineConfig, Frozen

ENV_PREFIX = "GATEWAY_"

Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^\sA-Z/*,]+)$", max_length=256)]
HeaderName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9!#$%&'+.^_`|~-]+)$", max_length=128)]


class ConfigError(Exception):
    """A configuration that can't be used; the message is ready to print."""


class CorsConfig(Frozen):
    """Which web pages may call from a browser (CORS). With no origins: none."""

    allow_origins: tuple[Origin, ...] = Field(
        (), description="'*' for every page, or origins such as https://app.example.com"
    )
    allow_headers: tuple[HeaderName, ...] = Field(
        ("*",), description="request headers a page may send; '*': any"
    )
    allow_credentials: bool = Field(
        False, description="pages may send cookies and client certificates along"
    )
    max_age_s: int = Field(600, ge=0, le=86400, description="browsers remember the answer so long")

    @model_validator(mode="after")
    def _credentials_need_names(self) -> CorsConfig:
        if self.allow_credentials and "*" in self.allow_origins:
            raise ValueError(
                "allow_credentials with the origin '*' would let every web page act for its "
                "visitors: name the origins"
            )
        return self


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
    cors: CorsConfig = CorsConfig()
    unknown_fields: Literal["refuse", "ignore"] = Field(
        "refuse", description="what is done with request fields this server doesn't know"
    )


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
    admin_keys: tuple[ApiKeyConfig, ...] = Field(
        (), description="for /admin/…, which doesn't exist without; they open nothing else"
    )


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
    exit_when_dead: bool = Field(
        True,
        description="once no engine is alive any more, end the program, with exit code 3",
    )


class ResponsesConfig(Frozen):
    """Responses that are made in the background."""

    max_background: int = Field(
        64, ge=0, description="so many at once; more get 429 with retry-after"
    )
    replay_s: float = Field(
        300.0, gt=0, description="after its end a response's events can be streamed for so long"
    )


class StateConfig(Frozen):
    """What outlives a request: stored completions, responses, conversations."""

    url: str | None = Field(
        None,
        min_length=1,
        description="sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:// to "
        "keep it in memory; default: gateway/state.db below $XDG_STATE_HOME",
    )
    retention_days: float = Field(
        30.0,
        gt=0,
        le=36_500,
        description="stored completions and responses are deleted after so long",
    )
    max_object_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="of one stored object, as JSON"
    )


PublicName = Annotated[str, Field(min_length=1, max_length=128)]


class AdapterConfig(Frozen):
    """A LoRA adapter of the model it stands with; clients choose it like a model, by its name."""

    name: PublicName
    path: str = Field(min_length=1, description="a local directory or a Hugging Face id")


class ModelConfig(Frozen):
    """One model of several: what clients call it, and the engine that runs it."""

    name: PublicName | None = Field(None, description="default: the engine's model")
    aliases: tuple[PublicName, ...] = Field((), description="other names it answers to")
    owned_by: str = Field("gateway", min_length=1, max_length=128)
    engine: EngineConfig = EngineConfig()
    adapters: tuple[AdapterConfig, ...] = ()

    @property
    def public_name(self) -> str:
        """What clients put in `model`."""
        return self.name or self.engine.model

    @property
    def engine_to_start(self) -> EngineConfig:
        """The engine's settings, with room for the adapters that are configured."""
        room = max(self.engine.max_adapters, len(self.adapters))
        return self.engine.model_copy(update={"max_adapters": room})

    @model_validator(mode="after")
    def _adapters_fit(self) -> ModelConfig:
        if self.adapters and self.engine.runner != "generate":
            raise ValueError("adapters need 'engine.runner: generate'; leave them out here")
        if 0 < self.engine.max_adapters < len(self.adapters):
            raise ValueError(
                f"engine.max_adapters is {self.engine.max_adapters}, but {len(self.adapters)} "
                "adapters are configured; raise it or leave it out"
            )
        return self


class GatewayConfig(Frozen):
    """The whole program's configuration; see `configs/` for commented examples."""

    model_name: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="public name; default: the engine's model",
    )
    engine: EngineConfig = EngineConfig()
    models: tuple[ModelConfig, ...] = Field(
        (), description="several models, instead of 'model_name' and 'engine'"
    )
    server: ServerConfig = ServerConfig()
    admission: AdmissionConfig = AdmissionConfig()
    auth: AuthConfig = AuthConfig()
    health: HealthConfig = HealthConfig()
    state: StateConfig = StateConfig()
    responses: ResponsesConfig = ResponsesConfig()
    hardware: HardwareConfig | None = None
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")

    @property
    def served(self) -> tuple[ModelConfig, ...]:
        """The models, at least one, however they are configured."""
        return self.models or (ModelConfig(name=self.model_name, engine=self.engine),)

    @property
    def public_name(self) -> str:
        """What clients call the first model."""
        return self.served[0].public_name

    @model_validator(mode="after")
    def _one_form(self) -> GatewayConfig:
        given = [key for key in ("model_name", "engine") if key in self.model_fields_set]
        if self.models and given:
            raise ValueError(
                f"'models' and '{given[0]}' exclude each other; with 'models' each has its own "
                "'name' and 'engine'"
            )
        _unique(_names(self.models))
        return self


def _names(models: Sequence[ModelConfig]) -> Iterator[tuple[str, str]]:
    """Every name a client may use, with the key it is configured by."""
    for number, model in enumerate(models):
        yield f"models.{number}.name", model.public_name
        for place, alias in enumerate(model.aliases):
            yield f"models.{number}.aliases.{place}", alias
        for place, adapter in enumerate(model.adapters):
            yield f"models.{number}.adapters.{place}.name", adapter.name


def _unique(names: Iterable[tuple[str, str]]) -> None:
    """Raises ValueError, which names both keys."""
    found: dict[str, str] = {}
    for key, name in names:
        if name in found:
            raise ValueError(
                f"{key} is '{name}', and so is {found[name]}; names, aliases and adapters have to "
                "differ from one another"
            )
        found[name] = key


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
