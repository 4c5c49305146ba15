"""Log-probabilities of generated tokens, told together with the text they belong to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from engine.base import TokenLogprob

# One position as engines tell it: the token that was chosen first, then the likeliest, best first.
Position = Sequence[tuple[int, float]]


class Spelling(Protocol):
    """What tokens say on their own."""

    def bytes_of(self, token_id: int) -> bytes:
        """The UTF-8 of one token; it may be part of a character."""
        ...


class SpokenLogprobs:
    """Keeps the log-probabilities of one choice until the text they belong to is told.

    A token's text may be held back for long, as the possible beginning of a stop string, and never
    be told when it was one: then its log-probability isn't told either.
    """

    __slots__ = ("_begun", "_top", "_waiting", "_words")

    def __init__(self, words: Spelling, top: int) -> None:
        self._words = words
        self._top = top
        self._begun = 0
        self._waiting: deque[tuple[int, Position]] = deque()

    def add(self, position: Position, text: str) -> None:
        """The next token, which completed `text`."""
        self._waiting.append((self._begun, position))
        self._begun += len(text)

    def until(self, told: int) -> Sequence[TokenLogprob]:
        """Those whose text begins within the first `told` characters, each once."""
        found = []
        while self._waiting and self._waiting[0][0] < told:
            found.append(logprob_of(self._waiting.popleft()[1], self._words, self._top))
        return found


def logprob_of(position: Position, words: Spelling, top: int) -> TokenLogprob:
    """`position` in words, with its `top` likeliest tokens."""
    chosen, *likeliest = position
    return _entry(chosen, words, [_entry(one, words) for one in _best(likeliest, top)])


def first_of(token_id: int, words: Spelling) -> TokenLogprob:
    """The first token of a prompt, which follows nothing."""
    spelled = words.bytes_of(token_id)
    return TokenLogprob(token_id, spelled.decode(errors="replace"), spelled, None)


def _best(likeliest: Iterable[tuple[int, float]], top: int) -> list[tuple[int, float]]:
    return sorted(likeliest, key=lambda entry: -entry[1])[:top]


def _entry(
    entry: tuple[int, float], words: Spelling, top: Sequence[TokenLogprob] = ()
) -> TokenLogprob:
    token_id, logprob = entry
    spelled = words.bytes_of(token_id)
    # JSON has no word for minus infinity: OpenAI's API says -9999 for what can't be.
    logprob = max(logprob, IMPOSSIBLE)
    return TokenLogprob(token_id, spelled.decode(errors="replace"), spelled, logprob, top)


IMPOSSIBLE = -9999.0
