"""`gateway check`: what a configuration would run, and whether that fits its hardware."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands import Exit, SetOption, errors_in_json, fail, read_config

if TYPE_CHECKING:
    from engine.config import EngineConfig
    from engine.models import CheckpointFacts, Hardware, MemoryPlan
    from gateway.config import GatewayConfig, ModelConfig


@dataclass(frozen=True, slots=True)
class ModelFindings:
    """What is known of one model.

    `unknown` says why no memory plan could be made; None where there is one or none was asked for.
    """

    model: ModelConfig
    origin: str
    facts: CheckpointFacts | None
    plan: MemoryPlan | None
    unknown: str | None

    @property
    def fits(self) -> bool | None:
        """Whether it fits where it has the machine to itself; None where it can't be told."""
        return self.plan.fits if self.plan else None


@dataclass(frozen=True, slots=True)
class Findings:
    """A valid configuration and all that is known of it without starting anything."""

    config: GatewayConfig
    models: tuple[ModelFindings, ...]
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool | None:
        """False where a model that generates doesn't even fit alone; None where that can't be
        told. One that embeds needs next to nothing beside its weights."""
        generating = [found for found in self.models if found.model.engine.runner == "generate"]
        fits = [found.fits for found in generating] or [None]
        return False if False in fits else None if None in fits else True


def check(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or the name of a shipped one.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="The findings as JSON.", callback=errors_in_json)
    ] = False,
    assignments: SetOption = None,
) -> None:
    """Validate a configuration and print what would run.

    Shows the model and where it comes from, the engine's settings, addresses, who may call, and
    the memory arithmetic for the hardware the file names. Needs neither GPU nor network, nor
    the keys of the machine that will serve: those missing here are warned of.

    [b]Examples[/b]

      gateway check configs/default.yaml
      gateway check t4-mistral-7b-awq --set engine.max_num_seqs=64
      gateway check my.yaml --json | jq .memory

    [b]Exit codes[/b]  0 valid, and fits where that can be told · 2 invalid · 3 does not fit
    """
    from engine.models import ModelError
    from gateway.config import ConfigError

    try:
        findings = examine(read_config(config, assignments, {}))
    except (ConfigError, ModelError) as error:
        fail(str(error), Exit.INVALID, valid=False)
    if as_json:
        typer.echo(json.dumps(as_record(findings), indent=2))
    else:
        typer.echo(as_text(findings))
    raise typer.Exit(Exit.DOES_NOT_FIT if findings.fits is False else Exit.OK)


def examine(config: GatewayConfig) -> Findings:
    """Raises ModelError for a local model that is not there or can't be read."""
    models = tuple(_examine_model(model, config.hardware) for model in config.served)
    return Findings(config, models, tuple(_warnings(config)))


def _examine_model(model: ModelConfig, hardware: Hardware | None) -> ModelFindings:
    engine = model.engine
    facts, plan, unknown = None, None, None
    if engine.kind == "vllm":
        facts, unknown = _facts(engine)
    if facts is not None and engine.runner == "generate" and hardware is not None:
        plan, unknown = _plan(facts, engine, hardware)
    return ModelFindings(model, _origin(engine, facts), facts, plan, unknown)


def _facts(engine: EngineConfig) -> tuple[CheckpointFacts | None, str | None]:
    from engine.models import ModelError, find_facts
    from engine.models.resolution import looks_local

    try:
        return find_facts(engine.model, engine.revision), None
    except ModelError as error:
        if looks_local(engine.model):
            raise
        return None, str(error)


def _plan(
    facts: CheckpointFacts, engine: EngineConfig, hardware: Hardware
) -> tuple[MemoryPlan | None, str | None]:
    from engine.models import ModelError, plan_memory

    try:
        return plan_memory(facts, engine, hardware), None
    except ModelError as error:
        return None, str(error)


def _origin(engine: EngineConfig, facts: CheckpointFacts | None) -> str:
    from engine.config import EMBEDDED_MODEL
    from engine.models import embedded_directory
    from engine.models.resolution import looks_local

    if engine.kind == "simulated":
        return "none: a simulated engine"
    if engine.model == EMBEDDED_MODEL:
        directory = embedded_directory()
        if (directory / "config.json").is_file():
            return f"embedded, converted in {directory}"
        return f"embedded, to be converted at the first start into {directory}"
    if looks_local(engine.model):
        return "a local directory"
    revision = f" at {engine.revision}" if engine.revision else ""
    if facts is not None and os.path.isdir(facts.source):
        return f"Hugging Face{revision}, in the cache"
    return f"Hugging Face{revision}, to be downloaded at the first start"


def _warnings(config: GatewayConfig) -> list[str]:
    from gateway.auth import Authenticator
    from gateway.config import AuthConfig, ConfigError
    from gateway.config.reading import overlooked

    found = overlooked(config)
    loopback = config.server.host in ("localhost", "::1") or config.server.host.startswith("127.")
    if not loopback and not config.auth.api_keys:
        found.append(
            f"server.host is {config.server.host} and no auth.api_keys are configured: it starts "
            "only if there are keys made with `gateway keys create`"
        )
    try:
        Authenticator(config.auth)
        Authenticator(AuthConfig(api_keys=config.auth.admin_keys))
    except ConfigError as error:
        found.append(f"{error}; where the server runs without, it doesn't start")
    return found


def as_text(findings: Findings) -> str:
    """Sections of labels and values."""
    config = findings.config
    sections: dict[str, list[tuple[str, str]]] = {}
    for found in findings.models:
        name = f" of {found.model.public_name}" if len(findings.models) > 1 else ""
        sections[f"Model{name}"] = _model_rows(found)
        sections[f"Engine{name}"] = list(settings(found.model.engine).items())
        sections[f"Memory{name}"] = (
            found.plan.rows() if found.plan else [("not reckoned", _why(found))]
        )
    sections["Server"] = [("address", _address(config)), ("callers", _callers(config))]
    width = max(len(label) for rows in sections.values() for label, _ in rows)
    lines = []
    for title, rows in sections.items():
        lines.append(title)
        lines += [f"  {label:<{width}}  {value}" for label, value in rows]
    lines += [f"warning: {warning}" for warning in findings.warnings]
    return "\n".join(lines)


def as_record(findings: Findings) -> dict[str, Any]:
    """The findings for machines; sizes in bytes, null where unknown. What stands outside `models`
    is the first one's."""
    config = findings.config
    models = [_model_record(found) for found in findings.models]
    return {
        "valid": True,
        "fits": findings.fits,
        **models[0],
        "models": models,
        "address": _address(config),
        "api_keys": [key.name for key in config.auth.api_keys],
        "warnings": list(findings.warnings),
    }


def _model_record(found: ModelFindings) -> dict[str, Any]:
    plan = found.plan
    return {
        "model": dict(_model_rows(found)),
        "engine": settings(found.model.engine),
        "memory": {**asdict(plan), "fits": plan.fits} if plan else None,
        "memory_unknown": None if plan else _why(found),
    }


def settings(engine: EngineConfig) -> dict[str, str]:
    """The engine's settings in words; what is left open takes the engine's default."""
    if engine.kind == "simulated":
        return {
            "kind": "simulated",
            "step": f"{engine.simulated.step_ms:g} ms",
            "sequences": str(engine.max_num_seqs),
        }
    parallel = engine.parallel
    split = f"tensor {parallel.tensor}, pipeline {parallel.pipeline}, data {parallel.data}"
    return {
        "runner": engine.runner,
        "dtype": engine.dtype,
        "quantization": engine.quantization or "as the checkpoint",
        "context": _tokens(engine.max_model_len, "as the checkpoint"),
        "sequences": str(engine.max_num_seqs),
        "step": _tokens(engine.max_num_batched_tokens),
        "KV cache": _kv_cache(engine),
        "prefix caching": _on(engine.enable_prefix_caching),
        "chunked prefill": _on(engine.enable_chunked_prefill),
        "compile": engine.compile,
        "executor": engine.executor,
        "parallel": split,
        "warm-up": _on(engine.warmup),
    }


def _model_rows(found: ModelFindings) -> list[tuple[str, str]]:
    model, facts = found.model, found.facts
    rows = [("name", model.public_name), ("checkpoint", model.engine.model)]
    if model.aliases:
        rows.append(("aliases", ", ".join(model.aliases)))
    rows.append(("from", found.origin))
    rows += [(f"adapter {adapter.name}", adapter.path) for adapter in model.adapters]
    if facts is not None:
        method = f", {facts.quantization.method}" if facts.quantization else ""
        rows.append(("architecture", f"{facts.architecture}, {facts.dtype}{method}"))
        rows.append(("facts from", facts.source))
    return rows


def _why(found: ModelFindings) -> str:
    if found.unknown is not None:
        return found.unknown
    if found.model.engine.kind == "simulated":
        return "a simulated engine needs none"
    if found.model.engine.runner == "pooling":
        return "a model that embeds keeps nothing between requests"
    return "the configuration names no hardware"


def _address(config: GatewayConfig) -> str:
    return f"{config.server.address(config.server.port or '(a free port)')}/v1"


def _callers(config: GatewayConfig) -> str:
    keys = [
        f"{key.name} ({'from ' + key.env if key.env else 'sha256'})" for key in config.auth.api_keys
    ]
    return ", ".join(keys) or "anyone: no API keys"


def _kv_cache(engine: EngineConfig) -> str:
    if engine.kv_cache_gib is not None:
        size = f"{engine.kv_cache_gib:g} GiB"
    else:
        size = f"what is left of {engine.gpu_memory_utilization:.0%} of the memory"
    return size if engine.kv_cache_dtype == "auto" else f"{size}, {engine.kv_cache_dtype}"


def _tokens(count: int | None, otherwise: str = "the engine's default") -> str:
    return f"{count:,} tokens" if count is not None else otherwise


def _on(value: bool) -> str:
    return "on" if value else "off"
