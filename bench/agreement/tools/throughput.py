"""`python -m bench.throughput`, run like any other tool."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.agreement.load import Figures, Load, PromptFields
from bench.agreement.tool import ROOT, Command

_REPORT = "throughput.json"


@dataclass(frozen=True, slots=True)
class Throughput:
    """Ours. It writes its prompts itself, from the seed."""

    name: str = "bench.throughput"
    notes: tuple[str, ...] = ()

    def version(self) -> str:
        return f"aiohttp {aiohttp.__version__}"

    def command(self, load: Load, prompts: Sequence[PromptFields], folder: Path) -> Command:
        arguments = [sys.executable, "-m", "bench.throughput", "--quiet"]
        arguments += ["--base-url", load.base_url, "--model", load.model]
        arguments += ["--endpoint", load.endpoint, "--seed", str(load.seed), "--warmup", "0"]
        arguments += ["--concurrency", str(load.concurrency), "--requests", str(load.requests)]
        arguments += ["--input-tokens", str(load.input_tokens)]
        arguments += ["--output-tokens", str(load.output_tokens)]
        arguments += ["--json", str(folder / _REPORT)]
        key = {"OPENAI_API_KEY": load.api_key} if load.api_key else {}
        return Command(arguments, {"PYTHONPATH": str(ROOT), **key})

    def read(self, folder: Path) -> Figures:
        record = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        ttft, tpot = record["latency_ms"]["ttft"], record["latency_ms"]["tpot"]
        return Figures(
            succeeded=record["requests"]["succeeded"],
            failed=record["requests"]["failed"],
            total_tokens_per_s=record["throughput"]["total_tokens_per_s"],
            output_tokens_per_s=record["throughput"]["output_tokens_per_s"],
            ttft_mean_ms=ttft["mean"],
            ttft_p50_ms=ttft["p50"],
            tpot_mean_ms=tpot["mean"],
            tpot_p50_ms=tpot["p50"],
        )
