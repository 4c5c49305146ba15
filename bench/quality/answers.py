"""Asks the questions of a file and scores what the server answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from bench.client import Endpoint
from bench.errors import BenchError
from bench.quality.api import Api, RefusedError, in_parallel
from bench.quality.overlap import exact_match, f1
from bench.quality.questions import Question, QuestionFile
from bench.quality.resampling import bootstrap_mean, verdict

METRICS = ("f1", "exact_match")


def identity(file: QuestionFile, endpoint: Endpoint, max_tokens: int) -> dict[str, Any]:
    """The same exactly where two scores can be compared."""
    return {"sha256": file.sha256, "endpoint": endpoint, "max_tokens": max_tokens}


async def measure(
    api: Api,
    file: QuestionFile,
    endpoint: Endpoint,
    max_tokens: int,
    concurrency: int,
    on_done: Callable[[], None],
) -> dict[str, Any]:
    """Gives the record of `answers`. A question the server refuses counts as failed, not as wrong.

    Raises BenchError: fewer than two were answered.
    """

    async def ask(question: Question) -> dict[str, Any]:
        try:
            text = await api.answer(endpoint, question.fields(endpoint), max_tokens)
        except RefusedError as error:
            return {"failure": str(error)}
        return {
            "answer": text,
            "f1": f1(text, question.right),
            "exact_match": exact_match(text, question.right),
        }

    asked = await in_parallel(file.questions, ask, concurrency, on_done)
    scored = [one for one in asked if "failure" not in one]
    if len(scored) < 2:
        raise BenchError(
            f"{len(scored)} of {len(asked)} questions were answered: {_failure(asked)}"
        )
    return {
        **{metric: asdict(bootstrap_mean([one[metric] for one in scored])) for metric in METRICS},
        "file": file.name,
        "identity": identity(file, endpoint, max_tokens),
        "scored": len(scored),
        "failed": len(asked) - len(scored),
        "questions": asked,
    }


def check_comparable(now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Raises BenchError: two identities are not the same."""
    for key, option in (("sha256", "answers"), ("endpoint",) * 2, ("max_tokens", "max-tokens")):
        if now[key] != before[key]:
            raise BenchError(
                f"--baseline was measured with another --{option}: {before[key]}, not {now[key]}"
            )


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any] | None:
    """Two records of the same questions: differences of the means, paired by question.

    Only questions that both answered count; None where these are fewer than two.
    """
    pairs = [
        (one, other)
        for one, other in zip(now["questions"], before["questions"], strict=True)
        if "failure" not in one and "failure" not in other
    ]
    if len(pairs) < 2:
        return None
    found: dict[str, Any] = {"pairs": len(pairs)}
    for metric in METRICS:
        change = bootstrap_mean([one[metric] - other[metric] for one, other in pairs])
        found[metric] = {
            "before": before[metric]["value"],
            "difference": change.value,
            "low": change.low,
            "high": change.high,
            "verdict": verdict(change, pairs=len(pairs), equal=0.0, higher_is_better=True),
        }
    return found


def _failure(asked: list[dict[str, Any]]) -> str:
    return next(str(one["failure"]) for one in asked if "failure" in one)
