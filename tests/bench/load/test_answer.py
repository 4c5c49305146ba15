from __future__ import annotations

import json
from typing import Any

import pytest

from bench.load.answer import Expected, UnreadableAnswerError, decode, difference


def stream(*objects: dict[str, Any], done: bool = True, newline: str = "\n") -> bytes:
    events = [json.dumps(one) for one in objects] + (["[DONE]"] if done else [])
    return "".join(f"data: {event}{newline * 2}" for event in events).encode()


def delta(content: str | None, index: int = 0, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": content}, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
CHAT: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
]
CHAT += [delta("漢"), delta("字 "), delta("!", reason="length"), USAGE]
EXPECTED = Expected(("漢字 !",), 3)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_streamed_chat_is_its_text_counts_and_reason(newline: str) -> None:
    answer = decode(stream(*CHAT, newline=newline))

    assert answer.texts == ("漢字 !",)
    assert answer.finish_reasons == ("length",)
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 3)
    assert answer.done
    assert difference(answer, EXPECTED) is None


def test_usage_and_reason_may_come_with_the_text() -> None:
    last = delta(None, reason="length") | {"usage": {"completion_tokens": 1}}

    answer = decode(stream(delta("x"), last))

    assert difference(answer, Expected(("x",), 1)) is None


def test_a_streamed_completion_has_its_text_in_the_choice() -> None:
    answer = decode(stream({"choices": [{"index": 0, "text": "a"}]}, {"choices": [{"text": "b"}]}))

    assert answer.texts == ("ab",)
    assert answer.completion_tokens is None


def test_choices_may_be_interleaved() -> None:
    answer = decode(stream(delta("a", 1), delta("b", 0), delta("c", 1), delta("", 2)))

    assert answer.texts == ("b", "ac", "")
    assert answer.finish_reasons == (None, None, None)


@pytest.mark.parametrize("choice", [{"message": {"content": "hi"}}, {"text": "hi"}])
def test_a_whole_answer_is_read_alike(choice: dict[str, Any]) -> None:
    whole = {"choices": [choice | {"index": 0, "finish_reason": "stop"}], **{"usage": None}}

    answer = decode(json.dumps(whole).encode())

    assert (answer.texts, answer.finish_reasons, answer.done) == (("hi",), ("stop",), True)


def test_an_event_that_was_cut_off_is_not_part_of_the_answer() -> None:
    whole = stream(*CHAT)

    for end in range(len(whole)):
        answer = decode(whole[:end])
        assert not answer.done
        assert difference(answer, EXPECTED, partial=True) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "no"}}',
        b"data: {not json}\n\n",
        b"data: 3\n\n",
        stream(delta("a"), {"error": {"message": "engine died"}}),
    ],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableAnswerError):
        decode(body)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (
            Expected(("漢字 ?",), 3),
            "differs from character 3 on: got …'漢字 !', expected …'漢字 ?'",
        ),
        (Expected(("漢字",), 3), "differs from character 2"),
        (Expected(("漢字 !", ""), 3), "1 choices, expected 2"),
        (Expected((), 3), "1 choices, expected 0"),
        (Expected(("漢字 !",), 4), "usage says 3 completion tokens, expected 4"),
        (Expected(("漢字 !",), 3, "stop"), "finish reasons ('length',), expected stop"),
    ],
)
def test_what_differs_is_said(expected: Expected, said: str) -> None:
    assert said in str(difference(decode(stream(*CHAT)), expected))


def test_a_beginning_must_be_one() -> None:
    answer = decode(stream(delta("字"), done=False))

    assert "character 0" in str(difference(answer, EXPECTED, partial=True))
