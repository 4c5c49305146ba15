"""The quantizing process: `python -m engine.quantize.worker JOB.json`. See `job` for its words.

It is a process of its own because llm-compressor and vLLM want different versions of a package,
and so that the memory of a whole model is given back when it is done.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from engine.quantize.errors import QuantizeError
from engine.quantize.job import Job

_LIBRARIES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


class Voice:
    """Where the process answers. What libraries print to stdout goes to stderr, a log file."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, **words: Any) -> None:
        self._stream.write(json.dumps(words) + "\n")
        self._stream.flush()


def run(job: Job, voice: Voice) -> dict[str, Any]:
    """Do the job; returns what the report says of it. Raises QuantizeError."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from engine.quantize import compressor
    from engine.quantize.export import export
    from engine.quantize.tokens import token_sequences

    settings = job.settings
    seconds: dict[str, float] = {}
    with _Timed(seconds, "load"):
        voice.say(stage="load")
        tokenizer: Any = AutoTokenizer.from_pretrained(job.model)
        sequences: list[list[int]] = []
        if settings.calibrated:
            wanted = settings.samples, settings.sequence_length
            sequences = token_sequences(job.documents, tokenizer, *wanted)
        model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype="auto")
    with _Timed(seconds, "quantize"):
        voice.say(stage="quantize")
        compressor.compress(
            model,
            tokenizer,
            settings,
            sequences,
            lambda done, total: voice.say(done=done, total=total),
        )
    with _Timed(seconds, "write"):
        voice.say(stage="write")
        compressor.save(model, job.target)
        if settings.format != "compressed-tensors" and settings.group_size is not None:
            export(job.target, settings.format, settings.group_size)
    return {
        "samples": len(sequences),
        "device": str(torch.accelerator.current_accelerator() or "cpu"),
        "seconds": seconds,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        },
    }


class _Timed:
    """Writes down how long a part took."""

    def __init__(self, seconds: dict[str, float], part: str) -> None:
        self._seconds, self._part = seconds, part

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._part] = round(time.monotonic() - self._began, 1)


def main() -> int:
    voice = Voice()
    try:
        facts = run(Job.read(Path(sys.argv[1])), voice)
    except QuantizeError as error:
        voice.say(error=str(error))
        return 1
    voice.say(facts=facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
