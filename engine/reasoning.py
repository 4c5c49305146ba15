"""Thinking aloud: the part of a completion between two tags, told apart from the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """What a model writes before and after its reasoning; `end_id` where that is one token.
    `special`: control tokens have to be part of the text for one of them to be seen."""

    start: str
    end: str
    end_id: int | None = None
    special: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of reasoning."""

    text: str


Part: TypeAlias = str | Reasoning


class ReasoningSplitter:
    """Takes one completion's text in pieces. `begun`: the prompt ended with the opening tag.

    Only a tag in front opens reasoning. What is never closed is reasoning to its end. Space between
    the tags and the words belongs to neither. However much is held, each piece is looked at once.
    """

    __slots__ = ("_counted", "_counting", "_held", "_opened", "_space", "_state", "_tags")

    def __init__(self, tags: ReasoningTags, *, begun: bool) -> None:
        self._tags = tags
        # What may be the beginning of a tag, and the space before it.
        self._held = ""
        self._space: list[str] = []
        self._state = "opened" if begun else "start"
        self._opened = begun
        self._counting = True
        self._counted = 0

    @property
    def tokens(self) -> int:
        """How many of the tokens were reasoning, its tags included."""
        return self._counted if self._opened else 0

    def note(self, token_ids: Sequence[int]) -> None:
        """Count the tokens of the text that is pushed next."""
        # Where the closing tag is no single token, its whole piece of text counts.
        if not self._counting or self._state in ("closed", "answer"):
            return
        end = self._tags.end_id
        if end is not None and end in token_ids:
            self._counting = False
            token_ids = token_ids[: list(token_ids).index(end) + 1]
        self._counted += len(token_ids)

    def push(self, text: str) -> Sequence[Part]:
        """What is certain with this piece of text."""
        self._held += text
        found: list[Part] = []
        while self._step(found):
            pass
        return found

    def finish(self) -> Sequence[Part]:
        """The rest, once the completion has ended."""
        held, self._held = self._held, ""
        held, self._space = "".join([*self._space, held]), []
        if self._state == "start":
            return [held] if held else []
        if self._state in ("opened", "reasoning"):
            held = held.rstrip()
            return [Reasoning(held)] if held else []
        return []

    def _step(self, found: list[Part]) -> bool:
        """Go as far as the state goes; whether it has changed."""
        before = self._state
        getattr(self, f"_in_{before}")(found)
        return self._state != before

    def _in_start(self, found: list[Part]) -> None:
        text = self._held.lstrip()
        if not text:
            self._space.append(self._held)
            self._held = ""
        elif text.startswith(self._tags.start):
            self._held, self._state = text[len(self._tags.start) :], "opened"
            self._opened, self._space = True, []
        elif not self._tags.start.startswith(text):
            self._held, self._space = "".join([*self._space, self._held]), []
            self._state = "answer"

    def _in_opened(self, found: list[Part]) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self._state = "reasoning"

    def _in_reasoning(self, found: list[Part]) -> None:
        text, tag, rest = self._held.partition(self._tags.end)
        begun = 0 if tag else _overlap(text, self._tags.end)
        words = text[: len(text) - begun]
        sure = words.rstrip()
        if sure:
            found.append(Reasoning("".join([*self._space, sure])))
            self._space = []
        if tag:
            self._held, self._state, self._space = rest, "closed", []
        else:
            # Space is held: it may be the last before the tag, which is no part of the reasoning.
            self._space.append(words[len(sure) :])
            self._held = text[len(words) :]

    def _in_closed(self, found: list[Part]) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self._state = "answer"

    def _in_answer(self, found: list[Part]) -> None:
        if self._held:
            found.append(self._held)
            self._held = ""


def _overlap(text: str, marker: str) -> int:
    """How many characters at the end of `text` may be the beginning of `marker`."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
