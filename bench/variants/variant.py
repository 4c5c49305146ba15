"""The list of variants: what each changes of a configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from bench.errors import BenchError

_KEYS: Final = {"name", "about", "set", "replicas"}
_CHECKPOINTS: Final = "{checkpoints}"
_THREADS: Final = "engine.cpu_threads"


class MissingCheckpointError(BenchError):
    """A variant's checkpoint isn't there."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A configuration with some keys changed, served by so many servers beside each other."""

    name: str
    about: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    replicas: int = 1

    def assignments(self, checkpoints: Path) -> list[str]:
        """`KEY=VALUE` for each change. `{checkpoints}` in a value is the directory of that name.

        Raises MissingCheckpointError.
        """
        return [f"{key}={_written(value, checkpoints)}" for key, value in self.settings.items()]


def read_variants(file: Path) -> list[Variant]:
    """The first one is the baseline. Raises BenchError: not a list of variants."""
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BenchError(f"--variants {file}: can't be read as YAML: {error}") from error
    if not isinstance(tree, list) or not tree:
        raise BenchError(f"--variants {file}: expected a list of variants, the baseline first")
    found = [_variant(entry, f"--variants {file}: entry {n}") for n, entry in enumerate(tree, 1)]
    names = [variant.name for variant in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchError(f"--variants {file}: there are two of {', '.join(twice)}")
    return found


def chosen(variants: Sequence[Variant], only: str | None) -> list[Variant]:
    """The baseline and those named in `only`, which is NAME,NAME,…; all where it is None.

    Raises BenchError: no such variant.
    """
    if only is None:
        return list(variants)
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    unknown = sorted(wanted - {variant.name for variant in variants})
    if unknown:
        known = ", ".join(variant.name for variant in variants)
        raise BenchError(f"--only: no variant {', '.join(unknown)}; there are: {known}")
    return [v for n, v in enumerate(variants) if n == 0 or v.name in wanted]


def shared_out(variant: Variant, config: Path) -> Variant:
    """Servers on one CPU share its threads, where nothing else is said."""
    if variant.replicas == 1 or _THREADS in variant.settings or Path("/dev/nvidiactl").exists():
        return variant
    threads = max(1, _threads(config) // variant.replicas)
    settings = {**variant.settings, _THREADS: threads}
    return Variant(variant.name, variant.about, settings, variant.replicas)


def _variant(entry: object, where: str) -> Variant:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise BenchError(f"{where}: expected a mapping with a name")
    if unknown := sorted(map(str, entry.keys() - _KEYS)):
        raise BenchError(
            f"{where}: unknown key {', '.join(unknown)}; allowed: {', '.join(sorted(_KEYS))}"
        )
    settings, replicas = entry.get("set") or {}, entry.get("replicas", 1)
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise BenchError(f"{where}: set: expected KEY: VALUE, as in engine.max_num_seqs: 8")
    if not isinstance(replicas, int) or replicas < 1:
        raise BenchError(f"{where}: replicas: expected a number of servers, at least 1")
    return Variant(entry["name"], str(entry.get("about", "")), settings, replicas)


def _written(value: object, checkpoints: Path) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if _CHECKPOINTS not in value:
        return value
    path = Path(value.replace(_CHECKPOINTS, str(checkpoints)))
    if not path.is_dir():
        raise MissingCheckpointError(
            f"there is no {path}: `gateway quantize` makes it; see --checkpoints"
        )
    return str(path)


def _threads(config: Path) -> int:
    """As many as one server would have."""
    try:
        tree = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BenchError(f"--config {config}: can't be read as YAML: {error}") from error
    engine = tree.get("engine") if isinstance(tree, dict) else None
    given = engine.get("cpu_threads") if isinstance(engine, dict) else None
    allowed = len(os.sched_getaffinity(0))
    return int(given or min(allowed, psutil.cpu_count(logical=False) or allowed))
