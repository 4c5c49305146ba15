"""What a load tool has to offer to be compared, and where it is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution
from pathlib import Path
from typing import Protocol

from bench.agreement.load import Figures, Load, PromptFields

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".loadtools"


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and what to add to the environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Tool(Protocol):
    """A load tool. `notes` say how its definitions differ from ours, one sentence each."""

    @property
    def name(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def version(self) -> str | None:
        """None where the tool isn't installed."""
        ...

    def command(self, load: Load, prompts: Sequence[PromptFields], folder: Path) -> Command:
        """Write what the tool wants to read to `folder`, where its report goes too."""
        ...

    def read(self, folder: Path) -> Figures:
        """The run's figures. Raises OSError, ValueError, LookupError, TypeError: no such report."""
        ...


def packages_of(home: Path) -> list[Path]:
    """Where a virtual environment keeps its packages."""
    return sorted(home.glob("lib/python*/site-packages"))


def installed_version(home: Path, package: str) -> str | None:
    """The version of a package in a virtual environment; None where it has none."""
    places = [str(place) for place in packages_of(home)]
    found = Distribution.discover(name=package, path=places)
    return next((one.version for one in found), None)


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """JSON, one object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
