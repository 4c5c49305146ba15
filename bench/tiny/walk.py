"""What a greedy answer of the tiny model has to be, stops and all, token by token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bench.tiny.model import TinyModel

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Foretold:
    """A choice. `stop_spans` says that its stop string began in an earlier token than the last;
    `spread` how many of its characters took several tokens."""

    text: str
    completion_tokens: int
    finish_reason: str
    stop_spans: bool
    spread: int


def walk(model: TinyModel, start: int, count: int) -> list[int]:
    """The `count` tokens after `start`."""
    tokens = [start]
    for _ in range(count):
        tokens.append(model.successors[tokens[-1]])
    return tokens[1:]


def foretell(
    model: TinyModel,
    start: int,
    *,
    max_tokens: int,
    min_tokens: int,
    ending: Collection[int],
    stop: Sequence[str],
) -> Foretold:
    """The choice whose walk begins after the token `start`.

    A token in `ending` ends it and isn't in the text. The stop string that is complete first ends
    it, of several the first in `stop`; it counts only when a token after the `min_tokens`-th
    completes it. A character whose last token is missing isn't in the text. `start` ends one.
    """
    text, spread = "", 0
    pending: list[int] = []
    for count, token in enumerate(walk(model, start, max_tokens), 1):
        if token in ending:
            return Foretold(text, count, "stop", stop_spans=False, spread=spread)
        pending.append(token)
        piece = _decoded(model, pending)
        if piece.endswith(REPLACEMENT):
            continue
        before, text = len(text), text + piece
        spread += len(pending) > 1
        pending = []
        found = _earliest(text, before, stop) if count > min_tokens else None
        if found is not None:
            return Foretold(text[:found], count, "stop", stop_spans=found < before, spread=spread)
    return Foretold(text, max_tokens, "length", stop_spans=False, spread=spread)


def _decoded(model: TinyModel, tokens: Sequence[int]) -> str:
    return str(model.tokenizer.decode(tokens, skip_special_tokens=True))


def _earliest(text: str, before: int, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that is the first to end among those that end in the
    characters from `before` on."""
    found = [
        (place + len(one), number, place)
        for number, one in enumerate(stop)
        if (place := text.find(one, max(before - len(one) + 1, 0))) >= 0
    ]
    return min(found)[2] if found else None
