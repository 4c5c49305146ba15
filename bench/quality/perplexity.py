"""Perplexity: how surprised the served model is by each token of a text, given those before it.

    perplexity = exp(-mean log p(token | tokens before it in its window))

Jelinek, Mercer, Bahl, Baker: Perplexity, a measure of the difficulty of speech recognition tasks
(1977). It is a mean over tokens: only models that cut the text into the same tokens compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from bench.errors import BenchError
from bench.quality.api import Api, in_parallel
from bench.quality.resampling import Estimate, bootstrap_mean, verdict
from bench.quality.text import Text
from bench.quality.windows import Window, cut, text_tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """How a text is cut: windows of `length` tokens that begin `stride` apart, at most `count`."""

    length: int = 512
    stride: int | None = None
    count: int = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What is scored. `identity` is the same exactly where two perplexities can be compared."""

    text: Text
    windows: tuple[Window, ...]
    identity: dict[str, Any]


async def prepare(api: Api, text: Text, shape: Shape, max_model_len: int | None) -> Plan:
    """Cut the text into windows of the server's tokens, each beginning as the server's prompts do.

    Raises BenchError: the windows don't fit the model, or the text doesn't fill two.
    """
    # With room for the one token that some engines make whatever they are asked for.
    if max_model_len is not None and shape.length >= max_model_len:
        raise BenchError(
            f"--length {shape.length} doesn't fit the model's context of {max_model_len} tokens; "
            f"give {max_model_len - 1} or less"
        )
    prefix = await api.tokenize("", add_special_tokens=True)
    room = shape.length - len(prefix)
    stride = shape.stride or room
    if not 0 < stride <= room:
        raise BenchError(f"--stride {stride} leaves gaps between windows; give {room} or less")
    wanted = text_tokens(len(prefix), length=shape.length, stride=stride, count=shape.count)
    tokens: list[int] = []
    for piece in text.pieces():
        if len(tokens) >= wanted:
            break
        tokens += await api.tokenize(piece, add_special_tokens=False)
    windows = cut(tokens, prefix, length=shape.length, stride=stride, count=shape.count)
    if len(windows) < 2:
        raise BenchError(
            f"{text.name} has {len(tokens)} tokens, which don't fill two windows of "
            f"{shape.length}; give a smaller --length or a longer --text"
        )
    return Plan(text, windows, _identity(text, windows, shape.length, stride))


async def measure(
    api: Api, plan: Plan, concurrency: int, on_done: Callable[[], None]
) -> dict[str, Any]:
    """Score every window. Gives the record of `perplexity`. Raises BenchError."""

    async def nll(window: Window) -> float:
        logprobs = await api.prompt_logprobs(window.tokens)
        return -math.fsum(logprobs[window.scored_from - 1 :])

    totals = await in_parallel(plan.windows, nll, concurrency, on_done)
    counts = [len(window.scored) for window in plan.windows]
    found = _exp(bootstrap_mean(totals, counts))
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "tokens": sum(counts),
        "mean_nll": math.log(found.value),
        "identity": plan.identity,
        "text": {"name": plan.text.name, "python": plan.text.python},
        "windows": [
            {"tokens": count, "nll": total} for count, total in zip(counts, totals, strict=True)
        ],
    }


def check_comparable(plan: Plan, before: Mapping[str, Any]) -> None:
    """Raises BenchError: `before`, another record of `perplexity`, is of something else."""
    then, now = before["identity"], plan.identity
    if then["text_sha256"] != now["text_sha256"]:
        of = before["text"]
        python = f" of Python {of['python']}" if of["python"] else ""
        ours = f" of Python {plan.text.python}" if plan.text.python else ""
        raise BenchError(
            f"--baseline was measured on another text: {of['name']}{python}, here "
            f"{plan.text.name}{ours}; give both the same with --text"
        )
    for key in ("length", "stride", "windows"):
        if then[key] != now[key]:
            raise BenchError(
                f"--baseline was measured with {key} {then[key]}, not {now[key]}; give --{key} "
                f"{then[key]}, or measure it again"
            )
    if then["tokens_sha256"] != now["tokens_sha256"]:
        raise BenchError(
            "--baseline is of a model that cuts the text into other tokens: perplexities per token "
            "can't be compared across tokenizers"
        )


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Two records of the same windows: the ratio of their perplexities, paired by window."""
    pairs = list(zip(now["windows"], before["windows"], strict=True))
    changes = [one["nll"] - other["nll"] for one, other in pairs]
    ratio = _exp(bootstrap_mean(changes, [one["tokens"] for one, _ in pairs]))
    return {
        "before": before["value"],
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "pairs": len(pairs),
        "verdict": verdict(ratio, pairs=len(pairs), equal=1.0, higher_is_better=False),
    }


def _identity(text: Text, windows: tuple[Window, ...], length: int, stride: int) -> dict[str, Any]:
    tokens = sha256()
    for window in windows:
        tokens.update(repr((window.tokens, window.scored_from)).encode())
    return {
        "text_sha256": text.sha256,
        "tokens_sha256": tokens.hexdigest(),
        "length": length,
        "stride": stride,
        "windows": len(windows),
    }


def _exp(nll: Estimate) -> Estimate:
    return Estimate(math.exp(nll.value), math.exp(nll.low), math.exp(nll.high))
