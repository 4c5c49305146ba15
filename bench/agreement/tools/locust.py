"""Locust, with the users of `bench/locustfile.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.agreement.load import Figures, Load, PromptFields
from bench.agreement.tool import ROOT, Command, installed_version, write_lines

_REPORT = "locust.json"
_LOCUSTFILE = ROOT / "bench" / "locustfile.py"


@dataclass(frozen=True, slots=True)
class Locust:
    """`home` is the virtual environment it is installed in."""

    home: Path
    name: str = "locust"
    notes: tuple[str, ...] = (
        "The measuring is our locustfile's, in Locust's users; Locust's own row knows E2EL alone, "
        "and its percentiles are rounded to two digits, so every value is taken from the report.",
        "TTFT and E2EL begin before a connection is found or made, as ours do.",
    )

    def version(self) -> str | None:
        return installed_version(self.home, "locust")

    def command(self, load: Load, prompts: Sequence[PromptFields], folder: Path) -> Command:
        path = write_lines(folder / "prompts.jsonl", prompts)
        arguments = [str(self.home / "bin" / "locust"), "-f", str(_LOCUSTFILE), "--headless"]
        arguments += ["--host", load.base_url, "--model", load.model, "--only-summary"]
        arguments += ["-u", str(load.concurrency), "-r", str(load.concurrency)]
        arguments += ["--requests", str(load.requests), "--prompts", str(path)]
        arguments += ["--output-tokens", str(load.output_tokens), "--report", str(folder / _REPORT)]
        key = {"OPENAI_API_KEY": load.api_key} if load.api_key else {}
        # The locustfile imports what lies beside it.
        return Command(arguments, {"PYTHONPATH": str(ROOT), **key})

    def read(self, folder: Path) -> Figures:
        record = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        return Figures.of_requests(
            failed=record["failed"],
            input_tokens=record["prompt_tokens"],
            output_tokens=record["completion_tokens"],
            duration_s=record["duration_s"],
            ttft_ms=record["ttft_ms"],
            tpot_ms=record["tpot_ms"],
        )
