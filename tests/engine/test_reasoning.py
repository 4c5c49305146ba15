"""Reasoning is told apart from the answer, wherever the text is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.reasoning import Reasoning, ReasoningSplitter, ReasoningTags

TAGS = ReasoningTags("<think>", "</think>", end_id=7)


def read(text: str, cuts: list[int], *, begun: bool = False) -> tuple[str, str]:
    """The reasoning and the answer."""
    splitter = ReasoningSplitter(TAGS, begun=begun)
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    parts = [p for a, b in itertools.pairwise(places) for p in splitter.push(text[a:b])]
    parts += splitter.finish()
    thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
    return thought, "".join(part for part in parts if isinstance(part, str))


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\nHm, 2 < 3.\n</think>\n\nYes.", "Hm, 2 < 3.", "Yes."),
        ("Yes.", "", "Yes."),
        ("<think></think>Yes.", "", "Yes."),
        ("\n<think>a</think> b </think> c", "a", "b </think> c"),
        ("<think>never closed </thi", "never closed </thi", ""),
        ("I <think> so</think>", "", "I <think> so</think>"),
        ("<thin", "", "<thin"),
        ("", "", ""),
    ],
)
def test_only_what_stands_between_the_tags_in_front_is_reasoning(
    text: str, reasoning: str, answer: str
) -> None:
    assert read(text, []) == (reasoning, answer)


def test_a_prompt_may_have_opened_the_reasoning() -> None:
    assert read("Hm.\n</think>\nYes.", [], begun=True) == ("Hm.", "Yes.")
    assert read("Hm.", [], begun=True) == ("Hm.", "")


pieces = st.sampled_from(["<think>", "</think>", "<", "think>", "</", " ", "\n", "words"])


@given(st.lists(pieces, max_size=8).map("".join), st.lists(st.integers(0, 99)), st.booleans())
def test_where_a_text_is_cut_changes_nothing(text: str, cuts: list[int], begun: bool) -> None:
    assert read(text, cuts, begun=begun) == read(text, [], begun=begun)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_the_tokens_of_the_reasoning_are_counted_up_to_its_end(size: int) -> None:
    tokens = [(1, "<think>"), (2, "a"), (3, "b"), (7, "</think>"), (4, "yes"), (7, "</think>")]
    splitter = ReasoningSplitter(TAGS, begun=False)
    for place in range(0, len(tokens), size):
        batch = tokens[place : place + size]
        splitter.note([token for token, _ in batch])
        splitter.push("".join(text for _, text in batch))
    assert splitter.tokens == 4


def test_an_answer_without_reasoning_has_no_tokens_of_it() -> None:
    splitter = ReasoningSplitter(TAGS, begun=False)
    splitter.note([1, 2, 3])
    splitter.push("Yes, of course.")
    assert splitter.tokens == 0


def test_space_that_goes_on_for_long_is_looked_at_once() -> None:
    splitter = ReasoningSplitter(TAGS, begun=False)
    pieces = 200_000
    parts = [part for text in ("\n", "<think>", "a", "\n") for part in splitter.push(text)]
    parts += [part for _ in range(pieces) for part in splitter.push(" \n")]
    parts += [*splitter.push("b</think>"), *splitter.finish()]
    assert parts == [Reasoning("a"), Reasoning("\n" + " \n" * pieces + "b")]
