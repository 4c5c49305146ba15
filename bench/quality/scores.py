"""Task scores as lm-evaluation-harness writes them, read into records of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from bench.errors import BenchError
from bench.quality.resampling import Estimate, verdict

# Of a normal distribution: 95% lie within this many standard errors.
_Z95 = 1.96


def read(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record for each metric of each task. Raises BenchError: there is none.

    The harness writes a metric as `name,filter` and its standard error as `name_stderr,filter`,
    which is the string "N/A" where it has none.
    """
    found = []
    for task, values in results.get("results", {}).items():
        for key, value in values.items():
            metric, separator, chosen_by = key.partition(",")
            if separator and not metric.endswith("_stderr") and _is_number(value):
                error = values.get(f"{metric}_stderr,{chosen_by}")
                found.append(
                    {
                        "task": task,
                        "metric": metric,
                        "filter": chosen_by,
                        "value": float(value),
                        "stderr": float(error) if _is_number(error) else None,
                        **_circumstances(results, task, metric),
                    }
                )
    if not found:
        raise BenchError("lm-evaluation-harness wrote no score; see its output above")
    return found


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _circumstances(results: Mapping[str, Any], task: str, metric: str) -> dict[str, Any]:
    """What else two scores must share; groups of tasks lack most of it."""
    better = results.get("higher_is_better", {}).get(task, {}).get(metric)
    return {
        "samples": results.get("n-samples", {}).get(task, {}).get("effective"),
        "shots": results.get("n-shot", {}).get(task),
        "version": results.get("versions", {}).get(task),
        "higher_is_better": better is not False,
    }


def interval(score: Mapping[str, Any]) -> Estimate | None:
    """The normal 95% interval of a score; None where its standard error is unknown."""
    if score["stderr"] is None:
        return None
    reach = _Z95 * score["stderr"]
    return Estimate(score["value"], score["value"] - reach, score["value"] + reach)


def compare(
    now: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Differences of the scores that both records have, over as many samples of the same version.

    The interval takes the two scores as independent; they share their questions, so it is wider
    than it had to be.
    """
    known = {_identity(score): score for score in before}
    return [_compared(score, known[_identity(score)]) for score in now if _identity(score) in known]


def _compared(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    difference = now["value"] - before["value"]
    found = {
        "task": now["task"],
        "metric": now["metric"],
        "filter": now["filter"],
        "before": before["value"],
        "difference": difference,
        "low": None,
        "high": None,
        "verdict": "no conclusion",
    }
    if now["stderr"] is None or before["stderr"] is None or now["samples"] is None:
        return found
    reach = _Z95 * math.hypot(now["stderr"], before["stderr"])
    change = Estimate(difference, difference - reach, difference + reach)
    better = bool(now["higher_is_better"])
    said = verdict(change, pairs=now["samples"], equal=0.0, higher_is_better=better)
    return {**found, "low": change.low, "high": change.high, "verdict": said}


def _identity(score: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(score[key] for key in ("task", "metric", "filter", "samples", "shots", "version"))
