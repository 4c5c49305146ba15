"""What a chat template is given of a Messages request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.base import ChatMessage, InvalidPromptError, ToolCall
from gateway.errors import InvalidRequestError
from gateway.protocol.history import history
from gateway.protocol.messages import CountTokensRequest
from gateway.protocol.parse import parse


def rendered(messages: list[Any], system: Any = None) -> list[ChatMessage]:
    body = {"model": "m", "messages": messages, "system": system}
    request = parse(CountTokensRequest, msgspec.json.encode(body))
    return history(request.system, request.messages)


def text(*texts: str) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": each, "cache_control": {"type": "ephemeral"}} for each in texts
    ]


def call(id: str = "toolu_1") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "look", "input": {"at": "é"}}


def result(id: str = "toolu_1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, **fields}


def test_strings_and_blocks_of_text_are_the_same() -> None:
    plain = rendered([{"role": "user", "content": "Hi"}], "Be brief.")
    assert plain == [ChatMessage("system", "Be brief."), ChatMessage("user", "Hi")]
    assert rendered([{"role": "user", "content": text("Hi")}], text("Be brief.")) == plain
    assert rendered([{"role": "user", "content": text("a", "b")}]) == [ChatMessage("user", "a\nb")]


def test_consecutive_messages_of_one_role_are_one_turn() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": text("b")},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": text("d")},
    ]
    assert rendered(messages) == [ChatMessage("user", "a\nb"), ChatMessage("assistant", "c\nd")]


def test_calls_and_what_tools_answered_become_messages_of_their_own() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    foreign = {"type": "redacted_thinking", "data": "abc"}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [thought, foreign, *text("Well."), call(), call("b")]},
        {
            "role": "user",
            "content": [
                result("b", is_error=True, content=text("no", "way")),
                result(content="sunny"),
                *text("Go on."),
            ],
        },
    ]
    assert rendered(messages)[1:] == [
        ChatMessage(
            "assistant",
            "Well.",
            tool_calls=(ToolCall("1", "look", '{"at": "é"}'), ToolCall("b", "look", '{"at": "é"}')),
            reasoning="hm",
        ),
        ChatMessage("tool", "Error: no\nway", tool_call_id="b"),
        ChatMessage("tool", "sunny", tool_call_id="1"),
        ChatMessage("user", "Go on."),
    ]


def test_a_turn_of_nothing_but_answers_of_tools_says_nothing_else() -> None:
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [call()]},
        {"role": "user", "content": [result()]},
    ]
    assert rendered(messages)[2:] == [ChatMessage("tool", "", tool_call_id="1")]


def test_instructions_in_between_are_a_developers() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "until you speak", "clear_at": "next_user_message"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "system", "content": text("from now on")},
        {"role": "system", "content": "just now", "clear_at": "next_user_message"},
    ]
    assert rendered(messages) == [
        ChatMessage("user", "a"),
        ChatMessage("assistant", "b"),
        ChatMessage("user", "c"),
        ChatMessage("developer", "from now on"),
        ChatMessage("developer", "just now"),
    ]


def test_a_block_that_changes_with_every_request_is_kept_out_of_the_prompt() -> None:
    system = text("x-anthropic-billing-header: cc_version=1; cch=4711;", "Be brief.")
    messages = [{"role": "user", "content": "a"}]
    assert rendered(messages, system)[0] == ChatMessage("system", "Be brief.")
    assert rendered(messages, system[:1])[0] == ChatMessage("user", "a")


@pytest.mark.parametrize(
    ("turns", "param"),
    [
        ([[result()]], "messages[0].content"),
        (["a", [call()], "b"], "messages[2].content"),
        (["a", [call(), call("b")], [result("b")]], "messages[2].content"),
        (["a", [call()], [result()], "b", [result()]], "messages[2].content"),
        (["a", [call()], [result("other")]], "messages[2].content"),
    ],
)
def test_calls_and_answers_belong_together(turns: list[Any], param: str) -> None:
    messages = []
    for turn in turns:
        calls = isinstance(turn, list) and turn[0]["type"] == "tool_use"
        messages.append({"role": "assistant" if calls else "user", "content": turn})
    with pytest.raises(InvalidPromptError) as refused:
        rendered(messages)
    assert refused.value.param == param
    assert "tool_use" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "role", "param"),
    [
        ([{"type": "image", "source": {}}], "user", "messages[0].content[0].type"),
        ([*text("a"), {"type": "document", "source": {}}], "user", "messages[0].content[1].type"),
        ([{"type": "server_tool_use"}], "assistant", "messages[0].content[0].type"),
        ([call()], "user", "messages[0].content[0].type"),
        ([{"type": "text"}], "user", "messages[0].content[0].text"),
        ([{"type": "text", "text": 5}], "assistant", "messages[0].content[0].text"),
        ([{"type": "tool_use", "id": "a"}], "assistant", "messages[0].content[0].name"),
        ([5], "user", "messages[0].content[0]"),
        (None, "user", "messages[0].content"),
        ("x", "robot", "messages[0].role"),
    ],
)
def test_what_can_not_be_read_is_refused_by_its_place(content: Any, role: str, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        rendered([{"role": role, "content": content}])
    assert refused.value.param == param
    assert refused.value.status == 400
