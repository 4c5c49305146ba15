"""anthropic: messages, with every helper the SDK has for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import Message
from shapes import WEATHER_PARAMETERS
from target import TARGET, TIMEOUT_S

JAPAN: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "input_schema": WEATHER_PARAMETERS,
}
# The SDK has no parameter for it any more.
GREEDY = {"temperature": 0}
FORCED: Any = {
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": [WEATHER],
    "tool_choice": {
        "type": "tool",
        "name": "get_weather",
        "disable_parallel_tool_use": True,
    },
    "max_tokens": 100,
}


@pytest.fixture(scope="module")
def claude() -> Iterator[Anthropic]:
    # Its own /v1 is part of the path.
    with Anthropic(
        base_url=TARGET.root, api_key=TARGET.api_key, max_retries=0, timeout=TIMEOUT_S
    ) as sdk:
        yield sdk


def say(claude: Anthropic, **fields: Any) -> Message:
    fields = {"messages": JAPAN, "max_tokens": 40, "extra_body": GREEDY, **fields}
    return claude.messages.create(model=TARGET.model, **fields)


def test_a_message_is_whole(claude: Anthropic) -> None:
    answer = say(claude)
    assert answer.id.startswith("msg_")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", TARGET.model)
    (block,) = answer.content
    assert block.type == "text"
    assert "Tokyo" in block.text
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


def test_why_a_message_stopped_is_told(claude: Anthropic) -> None:
    assert say(claude, max_tokens=2).stop_reason == "max_tokens"
    stopped = say(claude, stop_sequences=["Japan"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Japan")


def test_a_stream_adds_up_to_the_whole_message(claude: Anthropic) -> None:
    with claude.messages.stream(
        model=TARGET.model, messages=JAPAN, max_tokens=40, extra_body=GREEDY
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = say(claude)
    assert final.content[0].type == whole.content[0].type == "text"
    assert final.content[0].text == whole.content[0].text == text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_events_come_in_their_order(claude: Anthropic) -> None:
    kinds = [
        event.type
        for event in claude.messages.create(
            model=TARGET.model, messages=JAPAN, max_tokens=10, stream=True
        )
        if event.type not in {"ping", "content_block_delta"}
    ]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_a_tool_is_used_and_its_result_taken_back(claude: Anthropic) -> None:
    answer = say(claude, **FORCED)
    assert answer.stop_reason == "tool_use"
    (use,) = [block for block in answer.content if block.type == "tool_use"]
    assert use.name == "get_weather"
    assert use.input.keys() == {"city", "days"}  # type: ignore[attr-defined]
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "It is sunny."}
    last = say(
        claude,
        messages=[
            *FORCED["messages"],
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result]},
        ],
        tools=[WEATHER],
        tool_choice={"type": "none"},
    )
    assert last.content[0].type == "text"


def test_a_streamed_tool_use_adds_up(claude: Anthropic) -> None:
    with claude.messages.stream(model=TARGET.model, extra_body=GREEDY, **FORCED) as stream:
        final = stream.get_final_message()
    (use,) = [block for block in final.content if block.type == "tool_use"]
    assert use.input.keys() == {"city", "days"}  # type: ignore[attr-defined]


def test_tokens_are_counted_as_they_are_charged(claude: Anthropic) -> None:
    asked: Any = {"messages": JAPAN, "system": "Answer briefly."}
    counted = claude.messages.count_tokens(model=TARGET.model, **asked)
    assert counted.input_tokens == say(claude, **asked).usage.input_tokens


def test_system_and_content_come_in_blocks(claude: Anthropic) -> None:
    text: Any = [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]
    assert say(claude, system=text, messages=[{"role": "user", "content": text}]).content


@pytest.mark.parametrize(
    ("fields", "kind", "name"),
    [
        ({"model": "no-such-model"}, anthropic.NotFoundError, "not_found_error"),
        ({"extra_body": {"temperature": 3}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
    ],
    ids=["model", "temperature", "messages"],
)
def test_a_refusal_is_the_exception_its_status_means(
    claude: Anthropic, fields: Any, kind: type[anthropic.APIStatusError], name: str
) -> None:
    with pytest.raises(kind) as error:
        claude.messages.create(
            **{"model": TARGET.model, "messages": JAPAN, "max_tokens": 1, **fields}
        )
    assert error.value.body["error"]["type"] == name  # type: ignore[index]
    assert error.value.request_id


def test_a_wrong_key_is_an_authentication_error(claude: Anthropic) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        say(claude.with_options(api_key="wrong"))
