"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.stops import StopStrings

texts = st.text("ab🙂", max_size=12)
stop_lists = st.lists(st.text("ab🙂", min_size=1, max_size=4), min_size=1, max_size=3)


def run(stops: list[str], pieces: list[str], ignored: int = 0) -> tuple[list[str], bool]:
    """What is let through at each piece, and at the end; and whether a stop string ended it."""
    watch, out = StopStrings(stops), []
    for count, piece in enumerate(pieces):
        text, stopped = watch.push(piece, ignored=count < ignored)
        out.append(text)
        if stopped:
            return out, True
    return [*out, watch.rest()], False


@given(stops=stop_lists, pieces=st.lists(texts, max_size=6))
def test_the_text_ends_where_it_would_if_it_came_character_by_character(
    stops: list[str], pieces: list[str]
) -> None:
    whole, stopped = run(stops, pieces)
    single, stopped_singly = run(stops, list("".join(pieces)))
    assert "".join(whole) == "".join(single)
    assert stopped == stopped_singly


@given(stops=stop_lists, pieces=st.lists(texts, max_size=6))
def test_the_stop_string_that_ends_the_text_is_known(stops: list[str], pieces: list[str]) -> None:
    watch, seen, sent = StopStrings(stops), "", ""
    for piece in pieces:
        before = watch.matched
        assert before is None
        text, stopped = watch.push(piece)
        seen, sent = seen + piece, sent + text
        if stopped:
            assert watch.matched in stops
            assert seen[len(sent) :].startswith(watch.matched or "?")
            return
    assert watch.matched is None


@given(stops=stop_lists, pieces=st.lists(texts, max_size=6))
def test_no_part_of_a_stop_string_is_let_through_before_it_is_known_not_to_be_one(
    stops: list[str], pieces: list[str]
) -> None:
    out, stopped = run(stops, pieces)
    text = "".join(out)
    assert "".join(pieces).startswith(text)
    assert not any(stop in text for stop in stops)
    if stopped:
        assert any("".join(pieces)[len(text) :].startswith(stop) for stop in stops)
    else:
        assert text == "".join(pieces)


@given(stops=stop_lists, pieces=st.lists(texts, max_size=6))
def test_only_what_may_begin_a_stop_string_is_held_back(
    stops: list[str], pieces: list[str]
) -> None:
    watch, seen, sent = StopStrings(stops), "", ""
    for piece in pieces:
        text, stopped = watch.push(piece)
        if stopped:
            return
        seen, sent = seen + piece, sent + text
        held = seen[len(sent) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_that_is_complete_within_ignored_text_is_text() -> None:
    assert run(["ab"], ["ab", "xab"], ignored=1) == (["ab", "x"], True)


def test_a_stop_string_that_only_begins_in_ignored_text_counts() -> None:
    assert run(["ab"], ["xa", "b"], ignored=1) == (["x", ""], True)
