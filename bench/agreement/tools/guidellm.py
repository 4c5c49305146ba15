"""GuideLLM, of the vLLM project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.agreement.load import Figures, Load, PromptFields
from bench.agreement.tool import Command, installed_version, write_lines

_REPORT = "guidellm.json"


@dataclass(frozen=True, slots=True)
class GuideLLM:
    """`home` is the virtual environment it is installed in."""

    home: Path
    name: str = "guidellm"
    notes: tuple[str, ...] = (
        "TTFT begins when the headers are written, after a connection has been found or made.",
        "Its `inter_token_latency_ms` is what is called TPOT here, up to the last chunk with text; "
        "its own `time_per_output_token_ms` counts the first token too and is E2EL / tokens.",
        "It asks for `continuous_usage_stats`; here a usage at the end alone is asked for, so that "
        "all tools send the same request.",
        "One worker process, as the machine may have few cores; its default is up to ten. It lets "
        "some milliseconds pass between an answer and the next request: fewer are in flight than "
        "asked for, and they come less together, which makes TTFT shorter.",
    )

    def version(self) -> str | None:
        return installed_version(self.home, "guidellm")

    def command(self, load: Load, prompts: Sequence[PromptFields], folder: Path) -> Command:
        rows = [{**one, "output_tokens_count": load.output_tokens} for one in prompts]
        path = write_lines(folder / "prompts.jsonl", rows)
        scenario = folder / "scenario.json"
        scenario.write_text(json.dumps({"spec": _spec(load, path, folder / _REPORT)}), "utf-8")
        environment = {
            "GUIDELLM__MAX_WORKER_PROCESSES": "1",
            # The worker has its next requests at hand; else it waits for each after an answer.
            "GUIDELLM__MP_MAX_PENDING_BUFFER_PERCENT": "4.0",
            "GUIDELLM__MP_MAX_WORKER_BUFFER_PERCENT": "1.0",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder / "datasets"),
        }
        program = str(self.home / "bin" / "guidellm")
        return Command(
            [program, "run", "--config", str(scenario), "--disable-console"], environment
        )

    def read(self, folder: Path) -> Figures:
        report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        metrics = report["benchmarks"][0]["metrics"]
        totals = metrics["request_totals"]
        ttft = metrics["time_to_first_token_ms"]["successful"]
        tpot = metrics["inter_token_latency_ms"]["successful"]
        return Figures(
            succeeded=totals["successful"],
            failed=totals["errored"] + totals["incomplete"],
            total_tokens_per_s=metrics["tokens_per_second"]["successful"]["mean"],
            output_tokens_per_s=metrics["output_tokens_per_second"]["successful"]["mean"],
            ttft_mean_ms=ttft["mean"],
            ttft_p50_ms=ttft["median"],
            tpot_mean_ms=tpot["mean"],
            tpot_p50_ms=tpot["median"],
        )


def _spec(load: Load, prompts: Path, report: Path) -> dict[str, Any]:
    """The scenario file's `spec`: it holds the key, which a command line would show to others."""
    route = "/v1/chat/completions" if load.endpoint == "chat" else "/v1/completions"
    extras = {
        # One name for both endpoints, that every server knows.
        "max_tokens": load.output_tokens,
        "max_completion_tokens": None,
        "temperature": 0,
        "min_tokens": load.output_tokens,
        "stream_options": {"include_usage": True, "continuous_usage_stats": None},
    }
    backend = {
        "kind": "openai_http",
        "target": load.root_url,
        "model": load.model,
        "request_format": route,
        "extras": {"body": extras},
        "validate_backend": False,
        "api_key": load.api_key,
    }
    return {
        "backend": backend,
        "profile": {"kind": "concurrent", "streams": [load.concurrency]},
        "constraints": [{"kind": "max_requests", "count": load.requests}],
        "data": [{"kind": "json_file", "path": str(prompts)}],
        "outputs": [{"kind": "json", "path": str(report)}],
    }
