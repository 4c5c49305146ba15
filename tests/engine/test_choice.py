"""One choice of a request: from tokens to what is told of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.base import FinishReason, GenerateRequest, Prompt, SamplingOptions
from engine.choice import Choice

EOS = 3
STOP, LENGTH = 0, 1


class Letters:
    """Tokens are characters."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def extend(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def bytes_of(self, token_id: int) -> bytes:
        return chr(token_id).encode()


class Reader:
    """Reads a completion whose engines are made to die, and keeps what it was told."""

    def __init__(self, sampling: SamplingOptions) -> None:
        self.text = ""
        self.scored = ""
        self.finish: FinishReason | None = None
        self._sampling = sampling
        self._tokens: list[int] = []
        self._choice = self._begin()

    def resume(self) -> None:
        self._choice = self._begin()
        self._choice.scored([scores_of(token) for token in [2, *self._tokens]])

    def read(self, token: int, reason: int | None = None) -> None:
        choice = self._choice
        choice.tokens += choice.check([token], reason, [scores_of(token)])
        delta = choice.take()
        self._tokens += delta.token_ids
        self.text += delta.text
        self.scored += "".join(one.text for one in delta.logprobs)
        self.finish = delta.finish_reason

    def _begin(self) -> Choice[None]:
        letters, prompt = Letters(), Prompt([1, 2])
        request = GenerateRequest("one", prompt, self._sampling, generated=tuple(self._tokens))
        return Choice(0, None, request, letters, letters)


def scores_of(token: int) -> list[tuple[int, float]]:
    return [(token, -1.0)]


@pytest.mark.parametrize(
    ("last", "reason", "text"), [(EOS, STOP, "Hello wor"), (ord("m"), LENGTH, "Hello worm")]
)
def test_what_was_held_back_is_told_where_the_first_token_after_a_cut_is_the_last(
    last: int, reason: int, text: str
) -> None:
    reader = Reader(SamplingOptions(max_tokens=10, stop=("world",), logprobs=0))
    for letter in "Hello wor":
        reader.read(ord(letter))
    assert reader.text == "Hello "
    reader.resume()
    reader.read(last, reason)
    assert (reader.text, reader.scored) == (text, text)
    assert reader.finish == {STOP: "stop", LENGTH: "length"}[reason]
