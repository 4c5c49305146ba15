"""k6, with the script `bench/k6/chat.js`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.agreement.load import Figures, Load, PromptFields
from bench.agreement.tool import ROOT, Command, write_lines

_REPORT = "k6.json"
_SCRIPT = ROOT / "bench" / "k6" / "chat.js"


@dataclass(frozen=True, slots=True)
class K6:
    """The `k6` on PATH."""

    name: str = "k6"
    notes: tuple[str, ...] = (
        "It reads whole bodies: TTFT is the time to the first byte, which the gateway sends with "
        "the first token; TPOT is the rest of the body's time / (tokens - 1). Against a server "
        "that sends its headers before it has a token neither is what its name says.",
        "TTFT begins when the request is written, after a connection has been found or made.",
        "The tokens/s are over the whole test, set-up and tear-down included.",
    )

    def version(self) -> str | None:
        program = shutil.which("k6")
        if program is None:
            return None
        said = subprocess.run([program, "version"], capture_output=True, text=True, check=False)
        # k6 v1.1.0 (commit/…, go1.24.3, linux/amd64)
        found = re.search(r"\bv(\S+)", said.stdout)
        return found[1] if found else "of unknown version"

    def command(self, load: Load, prompts: Sequence[PromptFields], folder: Path) -> Command:
        path = write_lines(folder / "prompts.jsonl", prompts)
        environment = {
            "BASE_URL": load.base_url,
            "MODEL": load.model,
            "CONCURRENCY": str(load.concurrency),
            "REQUESTS": str(load.requests),
            "OUTPUT_TOKENS": str(load.output_tokens),
            "PROMPTS": str(path),
            "K6_NO_USAGE_REPORT": "true",
            **({"OPENAI_API_KEY": load.api_key} if load.api_key else {}),
        }
        # Without an address k6 opens no port of its own.
        arguments = ["k6", "run", "--quiet", "--address", "", "--summary-export"]
        return Command([*arguments, str(folder / _REPORT), str(_SCRIPT)], environment)

    def read(self, folder: Path) -> Figures:
        metrics = json.loads((folder / _REPORT).read_text(encoding="utf-8"))["metrics"]
        ttft, tpot, failed = metrics["llm_ttft"], metrics["llm_tpot"], metrics["llm_failed"]
        prompt, completion = metrics["llm_prompt_tokens"], metrics["llm_completion_tokens"]
        return Figures(
            # k6 counts what was true, here a failure, as a pass.
            succeeded=failed["fails"],
            failed=failed["passes"],
            total_tokens_per_s=prompt["rate"] + completion["rate"],
            output_tokens_per_s=completion["rate"],
            ttft_mean_ms=ttft["avg"],
            ttft_p50_ms=ttft["med"],
            tpot_mean_ms=tpot["avg"],
            tpot_p50_ms=tpot["med"],
        )
