"""Runs lm-evaluation-harness, in its own environment, against the API that is measured.

Biderman et al.: Lessons from the trenches on reproducible evaluation of language models (2024),
https://github.com/EleutherAI/lm-evaluation-harness. Its model `local-completions` sends token ids
to `/v1/completions` and sums the log-probabilities of the echoed prompt; its model
`local-chat-completions` generates.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.client import Endpoint, Target
from bench.errors import BenchError

# Of its output: kept to be explained, and shown.
_KEPT_BYTES = 200_000
_TAIL_LINES = 6
_MODELS: dict[Endpoint, str] = {
    "completions": "local-completions",
    "chat": "local-chat-completions",
}
# What its output says, and what can be done about it.
_REMEDIES = (
    (
        r"Couldn't reach|Couldn't find|OfflineModeIsEnabled|LocalEntryNotFound|DatasetNotFound"
        r"|huggingface\.co",
        "a task's data set has to be downloaded from the Hugging Face Hub, which can't be reached "
        "from here. Run it where it can be, or put the data set into --data DIR under its name "
        "there (DIR/Rowan/hellaswag)",
    ),
    (
        r"Loglikelihood is not supported for chat",
        "a task compares log-probabilities, which a chat can't tell: give --endpoint completions",
    ),
    (r"[Tt]asks? not found|Task .* not found", "there is no such task"),
)


@dataclass(frozen=True, slots=True)
class TaskRun:
    """What to run: names the harness knows, on the first `limit` questions of each."""

    tasks: tuple[str, ...]
    endpoint: Endpoint = "completions"
    limit: int | None = None
    shots: int | None = None
    tokenizer: Path | None = None
    include: Path | None = None
    concurrency: int = 4
    max_model_len: int | None = None
    timeout_s: float = 600.0


def command(python: Path, run: TaskRun, target: Target, output: Path) -> list[str]:
    """The harness's command line. Raises BenchError: a value can't be written in it."""
    words = [str(python), "-m", "lm_eval", "run", "--model", _MODELS[run.endpoint]]
    words += ["--model_args", _model_args(run, target)]
    words += ["--tasks", ",".join(run.tasks), "--output_path", str(output)]
    if run.endpoint == "chat":
        words.append("--apply_chat_template")
    if run.limit is not None:
        words += ["--limit", str(run.limit)]
    if run.shots is not None:
        words += ["--num_fewshot", str(run.shots)]
    if run.include is not None:
        words += ["--include_path", str(run.include.resolve())]
    return words


async def run_tasks(
    python: Path, run: TaskRun, target: Target, folder: Path, *, quiet: bool
) -> dict[str, Any]:
    """The harness's results, as it wrote them. Its progress goes to standard error.

    It runs in `folder`, where it finds data sets by the names they have on the Hub. Raises
    BenchError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as temporary:
        folder_of_results = Path(temporary)
        words = command(python, run, target, folder_of_results)
        code, output = await _ran(words, _environ(target), folder, quiet=quiet)
        results = _written(folder_of_results)
        if code or results is None:
            raise BenchError(_explained(code, output))
        return results


def _written(output: Path) -> dict[str, Any] | None:
    files = sorted(output.glob("**/results_*.json"))
    results: dict[str, Any] | None = None
    if files:
        results = json.loads(files[-1].read_text(encoding="utf-8"))
    return results


def _model_args(run: TaskRun, target: Target) -> str:
    values: dict[str, Any] = {
        "model": target.model,
        "base_url": target.url,
        "num_concurrent": run.concurrency,
        "max_retries": 3,
        "timeout": int(run.timeout_s),
        "max_length": run.max_model_len or 2048,
    }
    if run.tokenizer is not None:
        values |= {"tokenizer": run.tokenizer.resolve(), "tokenizer_backend": "huggingface"}
    for name, value in values.items():
        if "," in str(value):
            raise BenchError(f"lm-evaluation-harness takes no comma in {name}: {value}")
    return ",".join(f"{name}={value}" for name, value in values.items())


def _environ(target: Target) -> Mapping[str, str]:
    # It sends the header whether there is a key or not.
    key = target.api_key or "none"
    return {**os.environ, "OPENAI_API_KEY": key, "TOKENIZERS_PARALLELISM": "false"}


async def _ran(
    words: Sequence[str], environ: Mapping[str, str], folder: Path, *, quiet: bool
) -> tuple[int, str]:
    """Exit code, and what it printed last."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environ,
        cwd=folder,
    )
    kept = b""
    try:
        while process.stdout and (part := await process.stdout.read(4096)):
            kept = (kept + part)[-_KEPT_BYTES:]
            if not quiet:
                sys.stderr.buffer.write(part)
                sys.stderr.flush()
        return await process.wait(), kept.decode(errors="replace")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _explained(code: int, output: str) -> str:
    tail = "\n".join(output.splitlines()[-_TAIL_LINES:])
    end = f". The end of its output:\n{tail}"
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, output):
            return f"lm-evaluation-harness: {remedy}{end}"
    refused = re.search(r"Status code: \d+, Response text: .*", output)
    if refused is not None:
        return f"lm-evaluation-harness: the server refused its requests: {refused[0]}{end}"
    return f"lm-evaluation-harness ended with exit code {code}{end}"
