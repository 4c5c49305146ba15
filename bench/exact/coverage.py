"""What a comparison has covered, in figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.exact.plan import Case
from bench.load import Answer
from bench.tiny.walk import REPLACEMENT, Foretold


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A request, one answer to it, and what was foretold of it, where anything was."""

    case: Case
    answer: Answer
    foretold: Foretold | None


def coverage(witnessed: Sequence[Witnessed], answers: int, streams: int) -> dict[str, int]:
    """How much there was of everything that can go wrong, by what a reader calls it.

    `answers` and `streams` are those compared of all servers; the rest counts requests and
    choices once, as the first server answered them.
    """
    choices = [
        (one.case, text, reason)
        for one in witnessed
        for text, reason in zip(one.answer.texts, one.answer.finish_reasons, strict=True)
    ]
    known = [one.foretold for one in witnessed if one.foretold is not None]
    cases = [one.case for one in witnessed]
    return {
        "answers compared": answers,
        "of them streams": streams,
        "requests": len(cases),
        "to chat completions": _count(case.chat for case in cases),
        "with a prompt of token ids": _count(_of_token_ids(case) for case in cases),
        "with several choices": _count(case.choices > 1 for case in cases),
        "with stop strings": _count(bool(case.stops) for case in cases),
        "with stop token ids": _count("stop_token_ids" in case.body for case in cases),
        "with min_tokens": _count("min_tokens" in case.body for case in cases),
        "with ignore_eos": _count(case.body["ignore_eos"] for case in cases),
        "at temperature 0": _count(case.greedy for case in cases),
        "at temperature 1": _count(case.body["temperature"] == 1 for case in cases),
        "at temperature 2": _count(case.body["temperature"] == 2 for case in cases),
        "prompt tokens": sum(one.answer.prompt_tokens or 0 for one in witnessed),
        "completion tokens": sum(one.answer.completion_tokens or 0 for one in witnessed),
        "choices": len(choices),
        "that ended at a stop": _count(reason == "stop" for _, _, reason in choices),
        "that ended at their limit": _count(reason == "length" for _, _, reason in choices),
        "without any text": _count(not text for _, text, _ in choices),
        "with characters beyond ASCII": _count(not text.isascii() for _, text, _ in choices),
        "with invalid UTF-8": _count(REPLACEMENT in text for _, text, _ in choices),
        "requests whose answer was foretold": len(known),
        "with characters of several tokens": _count(one.spread > 0 for one in known),
        "with a stop that spans tokens": _count(one.stop_spans for one in known),
    }


def _of_token_ids(case: Case) -> bool:
    prompt = case.body.get("prompt")
    first = prompt[0] if isinstance(prompt, list) else None
    return isinstance(first, int | list)


def _count(found: Iterable[bool]) -> int:
    return sum(map(bool, found))
