"""A message in events says what the whole message says, however the tokens come."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import FinishReason, Prompt, TokenDelta
from engine.reasoning import ReasoningTags
from engine.scripted import SCRIPTED_CALLS
from engine.tools import FreeCalls, NamedCall, RequiredCalls
from gateway.answers import Heading
from gateway.answers.messages import MessagesAnswer, ThinkingDisplay
from gateway.call import Usage
from gateway.dialect import messages_error
from gateway.errors import APIError
from gateway.message import PLAIN, Form

TAGS = ReasoningTags("<think>", "</think>")
FREE = Form(finder=partial(FreeCalls, SCRIPTED_CALLS), tags=TAGS)
REQUIRED = Form(finder=RequiredCalls)
NAMED = Form(finder=partial(NamedCall, "look"))
CALL = '<tool_call>{"name": "look", "arguments": {"at": "é🙂", "n": [1, 2.5, null]}}</tool_call>'
TEXTS = [
    (PLAIN, ""),
    (PLAIN, "plain words"),
    (FREE, f"Well. {CALL}"),
    (FREE, f"<think>\nhm, é\n</think>\n\nWell. {CALL}\n{CALL} So."),
    (FREE, f"<think>never closed {CALL}"),
    (FREE, f"{CALL[:-20]}"),
    (REQUIRED, '[{"name": "a", "parameters": {"x": "}]"}}, {"name": "b", "parameters": {}}]'),
    (REQUIRED, '[{"name": "a", "parameters": {"x": "cut off he'),
    (NAMED, '{"big": 123456789012345678901234567890, "s": "\\u00e9"}'),
    (NAMED, '{"first": 1, "second": [tru'),
    (NAMED, "["),
]


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def deltas(
    parts: Sequence[str], finish: FinishReason, stop_string: str | None = None
) -> list[TokenDelta]:
    last = len(parts) - 1
    return [
        TokenDelta(
            0,
            part,
            (number,),
            finish if number == last else None,
            cached_tokens=3,
            stop_string=stop_string if number == last else None,
        )
        for number, part in enumerate(parts)
    ]


def answer_of(form: Form, thinking: ThinkingDisplay = "told") -> MessagesAnswer:
    heading = Heading("msg_1", "model", "fp")
    answer = MessagesAnswer(heading, form=form, max_tokens=100, thinking=thinking)
    answer.begin([Prompt(range(10))])
    return answer


def whole(answer: MessagesAnswer, text: str, finish: FinishReason, tokens: int) -> Any:
    (delta,) = deltas([text], finish)
    return json.loads(answer.whole([delta], Usage(10, tokens, 3)))


def events_of(text: bytes) -> list[dict[str, Any]]:
    """The data of server-sent events, each of which names its type twice."""
    found = []
    for event in text.decode().split("\n\n")[:-1]:
        kind, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {found[-1]['type']}"
    return found


def assembled(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that its events make; fails where they come in another order than promised."""
    first, *rest = events
    assert first["type"] == "message_start"
    message: dict[str, Any] = first["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    arguments: list[str] = []
    open_block: int | None = None
    for event in rest:
        content = message["content"]
        if event["type"] == "content_block_start":
            assert (open_block, event["index"]) == (None, len(content))
            open_block = event["index"]
            content.append(event["content_block"])
            arguments.append("")
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
            add(content[-1], event["delta"], arguments)
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
        elif event["type"] == "message_delta":
            assert open_block is None
            message |= event["delta"]
            message["usage"] |= event["usage"]
    assert [event["type"] for event in rest[-2:]] == ["message_delta", "message_stop"]
    for block, text in zip(message["content"], arguments, strict=True):
        if block["type"] == "tool_use":
            block["text"] = text
    return message


def add(block: dict[str, Any], delta: dict[str, Any], arguments: list[str]) -> None:
    kind = delta["type"]
    if kind == "input_json_delta":
        assert block["type"] == "tool_use"
        arguments[-1] += delta["partial_json"]
    elif kind == "signature_delta":
        block["signature"] = delta["signature"]
    else:
        field = {"text_delta": "text", "thinking_delta": "thinking"}[kind]
        assert block["type"] == field
        block[field] += delta[field]


def streamed(answer: MessagesAnswer, parts: Sequence[str], finish: FinishReason) -> Any:
    told = b"".join(answer.events(delta) for delta in deltas(parts, finish))
    return assembled(events_of(told + answer.finished(Usage(10, len(parts), 3))))


def comparable(message: Any) -> Any:
    """Without the ids of calls, which are drawn, and with the inputs that a cut left whole."""
    for block in message["content"]:
        if block["type"] != "tool_use":
            continue
        assert block.pop("id").startswith("toolu_")
        text = block.pop("text", None)
        if text is not None:
            try:
                block["input"] = json.loads(text)
            except ValueError:
                block["input"] = "cut"
    return message


@pytest.mark.parametrize("thinking", ["told", "omitted", "hidden"])
@given(
    example=st.sampled_from(TEXTS),
    cuts=st.lists(st.integers(0, 120), max_size=30),
    finish=st.sampled_from(["stop", "length"]),
)
def test_the_events_of_any_pieces_add_up_to_the_whole_message(
    thinking: ThinkingDisplay,
    example: tuple[Form, str],
    cuts: list[int],
    finish: FinishReason,
) -> None:
    form, text = example
    parts = pieces(text, cuts)
    one = comparable(streamed(answer_of(form, thinking), parts, finish))
    other = comparable(whole(answer_of(form, thinking), text, finish, len(parts)))
    for ours, theirs in zip(one["content"], other["content"], strict=True):
        if ours.get("input") == "cut":
            assert isinstance(theirs["input"], dict)
            theirs["input"] = "cut"
    # How many of the tokens were thinking depends on where they end.
    for message in (one, other):
        message["usage"].pop("output_tokens_details", None)
    assert one == other


def test_a_turn_is_thinking_then_words_then_calls() -> None:
    text = f"<think>\nhm\n</think>\n\nWell. {CALL}"
    message = whole(answer_of(FREE), text, "stop", 5)
    thinking, words, call = message["content"]
    digest = base64.b64encode(hashlib.sha256(b"hm").digest()).decode()
    assert thinking == {"type": "thinking", "thinking": "hm", "signature": digest}
    assert words == {"type": "text", "text": "Well. "}
    assert call.pop("id").startswith("toolu_")
    assert call == {
        "type": "tool_use",
        "name": "look",
        "input": {"at": "é🙂", "n": [1, 2.5, None]},
    }
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)
    assert message["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 1},
        "service_tier": "standard",
    }


def test_thinking_can_be_told_without_its_words_or_not_at_all() -> None:
    text = "<think>hm</think>Well."
    omitted, words = whole(answer_of(FREE, "omitted"), text, "stop", 5)["content"]
    assert (omitted["thinking"], bool(omitted["signature"])) == ("", True)
    assert whole(answer_of(FREE, "hidden"), text, "stop", 5)["content"] == [words]


@pytest.mark.parametrize(
    ("finish", "stop_string", "tokens", "reason"),
    [
        ("stop", None, 5, "end_turn"),
        ("stop", "###", 5, "stop_sequence"),
        ("length", None, 100, "max_tokens"),
        ("length", None, 99, "model_context_window_exceeded"),
    ],
)
def test_a_message_tells_why_it_ended(
    finish: FinishReason, stop_string: str | None, tokens: int, reason: str
) -> None:
    usage, (delta,) = Usage(10, tokens, 0), deltas(["words"], finish, stop_string)
    message = json.loads(answer_of(PLAIN).whole([delta], usage))
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop_string)
    answer = answer_of(PLAIN)
    told = assembled(events_of(answer.events(delta) + answer.finished(usage)))
    assert (told["stop_reason"], told["stop_sequence"]) == (reason, stop_string)


def test_arguments_that_were_cut_off_are_told_as_far_as_they_are_certain() -> None:
    (call,) = whole(answer_of(NAMED), '{"first": 1, "second": [tru', "length", 100)["content"]
    assert call["input"] == {"first": 1, "second": []}
    (call,) = whole(answer_of(NAMED), "[", "length", 100)["content"]
    assert call["input"] == {}


def test_numbers_of_arguments_keep_all_their_digits() -> None:
    (delta,) = deltas(['{"big": 123456789012345678901234567890}'], "stop")
    assert b'{"big": 123456789012345678901234567890}' in answer_of(NAMED).whole(
        [delta], Usage(10, 5, 0)
    )


def test_an_error_in_the_middle_is_an_event_of_its_own() -> None:
    answer = answer_of(PLAIN)
    (delta, _) = deltas(["some", "more"], "stop")
    *_, last = events_of(answer.events(delta) + answer.failed(APIError("It broke.")))
    assert last == {"type": "error", "error": {"type": "api_error", "message": "It broke."}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (408, "timeout_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_the_type_of_an_error_says_what_its_status_says(status: int, kind: str) -> None:
    told = json.loads(messages_error(APIError("It broke.", status=status), "req_1"))
    assert told == {
        "type": "error",
        "error": {"type": kind, "message": "It broke."},
        "request_id": "req_1",
    }
