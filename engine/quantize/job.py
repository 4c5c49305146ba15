"""What the quantizing process is told, and what it says while it works.

The order is a JSON file; the answers are JSON objects, one a line, on the process's stdout:
`{"stage": "load"}`, `{"done": 3, "total": 31}`, at last `{"facts": {…}}` or `{"error": "…"}`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.quantize.calibration import Document
from engine.quantize.settings import Settings


@dataclass(frozen=True, slots=True)
class Job:
    """Quantize the checkpoint `model` into the existing directory `target`."""

    model: Path
    target: Path
    settings: Settings
    documents: tuple[Document, ...] = ()

    def write(self, path: Path) -> None:
        order = {**asdict(self), "model": str(self.model), "target": str(self.target)}
        path.write_text(json.dumps(order, ensure_ascii=False), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        order = json.loads(path.read_text("utf-8"))
        return cls(
            Path(order["model"]),
            Path(order["target"]),
            Settings(**order["settings"]),
            tuple(order["documents"]),
        )
