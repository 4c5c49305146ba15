"""Cuts tokens into windows: what is scored, and what is only context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A prompt. Its tokens from `scored_from` on are scored, those before them are context."""

    tokens: tuple[int, ...]
    scored_from: int

    @property
    def scored(self) -> tuple[int, ...]:
        return self.tokens[self.scored_from :]


def cut(
    tokens: Sequence[int], prefix: Sequence[int], *, length: int, stride: int, count: int
) -> tuple[Window, ...]:
    """At most `count` windows of exactly `length` tokens, each beginning with `prefix`.

    They begin `stride` text tokens apart. Every token is scored once at most: in the first window
    that has it, and not where nothing stands before it. What is left of the text is dropped.
    `stride` is in 1..`length - len(prefix)`.
    """
    room = length - len(prefix)
    begins = range(0, len(tokens) - room + 1, stride)[:count]
    windows = []
    seen = 0
    for begin in begins:
        part = tokens[begin : begin + room]
        scored_from = len(prefix) + max(seen - begin, 0)
        windows.append(Window((*prefix, *part), max(scored_from, 1)))
        seen = begin + room
    return tuple(windows)


def text_tokens(prefix: int, *, length: int, stride: int, count: int) -> int:
    """How many tokens of text `count` windows take."""
    return length - prefix + (count - 1) * stride
