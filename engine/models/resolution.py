"""From the name a user gives to a directory an engine can load."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config import EMBEDDED_MODEL
from engine.models.directory import check_directory
from engine.models.embedded import resolve_embedded
from engine.models.errors import ModelError
from engine.models.progress import ConsoleProgress, Progress

_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A complete model on this machine; `name` is what was asked for."""

    path: Path
    name: str
    source: Literal["embedded", "local", "hub"]


def resolve(
    name: str,
    revision: str | None = None,
    progress: Progress | None = None,
    *,
    weights: bool = True,
) -> ResolvedModel:
    """Find or fetch a model: the embedded one, a local directory, or a Hugging Face id.

    An existing directory wins over a Hugging Face id of the same name. `revision` is a branch,
    tag or commit on the hub. With `weights` false (random weights will be loaded) configuration
    and tokenizer suffice. Blocks: it may download or convert.

    Raises ModelError, with what to do, for everything that is missing, forbidden or unreachable.
    """
    reporter = progress or ConsoleProgress()
    if name == EMBEDDED_MODEL:
        return ResolvedModel(resolve_embedded(reporter), name, "embedded")
    path = Path(name).expanduser()
    if looks_local(name):
        check_directory(path, weights=weights)
        return ResolvedModel(path.resolve(), name, "local")
    check_hub_id(name)
    # Imported late: a local start needs neither the client nor the half second it costs.
    from engine.models.hub import download

    return ResolvedModel(download(name, revision, reporter, weights=weights), name, "hub")


def looks_local(name: str) -> bool:
    """Whether `name` means a path: it exists here, or no Hugging Face id is written like it."""
    if Path(name).expanduser().exists():
        return True
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..") or name.count("/") > 1


def check_hub_id(name: str) -> None:
    """Raise ModelError where `name` can't be a Hugging Face id."""
    if not _HUB_ID.fullmatch(name) or ".." in name or "--" in name:
        raise ModelError(
            f"{name!r} is neither an existing directory nor a Hugging Face id such as "
            f"'mistralai/Mistral-7B-Instruct-v0.3', nor {EMBEDDED_MODEL!r}"
        )
    if "/" not in name and difflib.get_close_matches(name.lower(), [EMBEDDED_MODEL], cutoff=0.8):
        raise ModelError(f"{name!r} is no model; did you mean {EMBEDDED_MODEL!r}?")
