"""Finds what two answers to the same request say differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.load import Answer
from bench.tiny.walk import REPLACEMENT

_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands where an answer should be."""

    why: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Of the answers to request number `request`: `kind` is what to count it as, `between` whose
    answers they are, `detail` what each says."""

    request: int
    kind: str
    between: str
    detail: str


def differences(
    request: int, answers: Mapping[str, Answer | Missing], pairs: Sequence[tuple[str, str]]
) -> list[Difference]:
    """Everything the answers of a pair say differently, of the pairs that are both there, and
    every answer that is missing. All have the same number of choices."""
    found = [
        Difference(request, "no answer", name, answer.why)
        for name, answer in answers.items()
        if isinstance(answer, Missing)
    ]
    for names in pairs:
        one, other = (answers.get(name) for name in names)
        if isinstance(one, Answer) and isinstance(other, Answer):
            found += [
                Difference(request, kind, " / ".join(names), detail)
                for kind, detail in _unlike(one, other)
            ]
    return found


def _unlike(one: Answer, other: Answer) -> Iterator[tuple[str, str]]:
    for index, texts in enumerate(zip(one.texts, other.texts, strict=True)):
        if texts[0] != texts[1]:
            counts = {text.count(REPLACEMENT) for text in texts}
            kind = "text" if len(counts) == 1 else "replacement characters"
            yield kind, f"choice {index}, {_apart(*texts)}"
    for name in ("finish_reasons", "prompt_tokens", "completion_tokens"):
        first, second = getattr(one, name), getattr(other, name)
        if first != second:
            yield name.replace("_", " "), f"{first} / {second}"


def _apart(one: str, other: str) -> str:
    """Where two texts part, and what follows in each."""
    pairs = enumerate(zip(one, other, strict=False))
    place = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    first, second = (text[place : place + _SHOWN] for text in (one, other))
    return f"from character {place}: {first!r} / {second!r}"
