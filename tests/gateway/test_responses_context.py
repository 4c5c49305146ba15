"""What a response continues: earlier responses, conversations, items by reference; and what is left
out where that is too much."""

from __future__ import annotations

from typing import Any

import pytest

from engine.base import ChatMessage, ToolCall
from engine.structure import check_tool_parameters
from gateway.errors import InvalidRequestError
from gateway.protocol import tools as wire_tools
from gateway.responses.history import later, messages, most_dropped
from gateway.store import conversations as stored_conversations
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.responding import (
    CALL,
    TOOLS,
    checked,
    events,
    get,
    made,
    respond,
    speaking,
    types,
)

SPOKEN = "The quick brown fox jumps over the lazy dog."


def said(*texts: str, instructions: str = "") -> int:
    """How many tokens the simulated engine has for a conversation of these messages."""
    parts = [*([instructions] if instructions else []), *texts]
    return 2 + sum(2 + len(text) for text in parts)


def input_tokens(response: dict[str, Any]) -> int:
    found: int = response["usage"]["input_tokens"]
    return found


async def test_a_response_continues_the_one_before_it(gateway: LiveGateway) -> None:
    first = await made(gateway, input="Hi", instructions="Be kind.")
    second = await made(gateway, input="And?", previous_response_id=first["id"])
    third = await made(
        gateway, input="So?", previous_response_id=second["id"], instructions="Be brief."
    )
    assert input_tokens(first) == said("Hi", instructions="Be kind.")
    assert input_tokens(second) == said("Hi", SPOKEN, "And?")
    assert input_tokens(third) == said(
        "Hi", SPOKEN, "And?", SPOKEN, "So?", instructions="Be brief."
    )
    assert third["previous_response_id"] == second["id"]


async def test_a_chain_whose_beginning_is_deleted_can_not_be_continued(
    gateway: LiveGateway,
) -> None:
    first = await made(gateway)
    second = await made(gateway, previous_response_id=first["id"])
    await get(gateway, first["id"], "DELETE")
    status, answer = await respond(gateway, previous_response_id=second["id"])
    assert (status, answer["error"]["code"]) == (400, "previous_response_not_found")


async def test_a_call_is_answered_through_the_response_that_made_it(
    start_gateway: StartGateway,
) -> None:
    gateway = await speaking(start_gateway, CALL)
    first = await made(gateway, tools=TOOLS)
    (call,) = first["output"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "20 °C"}
    second = await made(gateway, input=[output], previous_response_id=first["id"])
    assert second["status"] == "completed"
    status, answer = await respond(gateway, previous_response_id=first["id"])
    assert status == 400
    expected = f"No tool output found for function call {call['call_id']}."
    assert answer["error"]["message"] == expected
    status, answer = await respond(gateway, input=[{**output, "call_id": "call_x"}])
    expected = "No tool call found for function call output with call_id call_x."
    assert answer["error"]["message"] == expected


async def test_output_can_be_sent_back_as_it_came(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, f"I see.{CALL}")
    responses = gateway.openai.responses
    first = await responses.create(model=MODEL, input="Hi", tools=TOOLS, store=False)
    call: Any = first.output[1]
    given: list[Any] = [
        {"role": "user", "content": "Hi"},
        *first.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "20"},
    ]
    second = await responses.create(model=MODEL, input=given)
    assert second.status == "completed"


async def test_items_are_found_by_their_ids(gateway: LiveGateway) -> None:
    first = await made(gateway)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    hello = {"role": "user", "content": "Hi"}
    second = await made(gateway, input=[hello, reference, {"role": "user", "content": "And?"}])
    assert input_tokens(second) == said("Hi", SPOKEN, "And?")
    status, items = await get(gateway, f"{second['id']}/input_items?order=asc")
    assert status == 200
    assert items["data"][1] == first["output"][0]
    unsaved = await made(gateway, store=False)
    lost = {"type": "item_reference", "id": unsaved["output"][0]["id"]}
    status, answer = await respond(gateway, input=[lost])
    assert (status, answer["error"]["param"]) == (404, "input")
    assert "`store` is set to false" in answer["error"]["message"]


async def test_an_item_that_is_there_already_is_refused(gateway: LiveGateway) -> None:
    first = await made(gateway)
    status, answer = await respond(gateway, input=first["output"], previous_response_id=first["id"])
    assert (status, answer["error"]["param"]) == (400, "input")
    assert "Duplicate item" in answer["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("store", [False, True])
async def test_a_conversation_gains_what_was_said(
    gateway: LiveGateway, stream: bool, store: bool
) -> None:
    responses, conversations = gateway.openai.responses, gateway.openai.conversations
    greeting: Any = {"role": "developer", "content": "Be kind."}
    conversation = await conversations.create(items=[greeting])
    if stream:
        async for _ in await responses.create(
            model=MODEL, input="Hi", conversation=conversation.id, stream=True, store=store
        ):
            pass
    else:
        response = await responses.create(
            model=MODEL, input="Hi", conversation=conversation.id, store=store
        )
        assert response.conversation
        assert response.conversation.id == conversation.id
    listed = await conversations.items.list(conversation.id, order="asc")
    roles = [item.role async for item in listed]  # type: ignore[union-attr]
    assert roles == ["developer", "user", "assistant"]
    named: Any = {"id": conversation.id}
    after = await responses.create(model=MODEL, input="And?", conversation=named)
    assert after.usage
    assert after.usage.input_tokens == said("Be kind.", "Hi", SPOKEN, "And?")


async def test_what_failed_adds_nothing_to_a_conversation(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.fail_every": 1})
    conversation = await gateway.openai.conversations.create()
    status, _ = await respond(gateway, conversation=conversation.id)
    assert status == 500
    assert not (await gateway.openai.conversations.items.list(conversation.id)).data


@pytest.mark.parametrize("stored", [True, False])
async def test_what_a_conversation_refuses_to_take_has_failed(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    conversation = await gateway.openai.conversations.create()
    monkeypatch.setattr(stored_conversations, "MAX_ITEMS", 1)
    fields = {"conversation": conversation.id, "store": stored}
    stream = await events(gateway, **fields)
    assert types(stream)[-2:] == ["error", "failed"]
    final = checked(stream[-1]["response"])
    status, found = await get(gateway, final["id"])
    assert (status, found) == (200, final) if stored else status == 404
    status, answer = await respond(gateway, **fields)
    assert (status, answer["error"]["param"]) == (400, "items")
    assert not (await gateway.openai.conversations.items.list(conversation.id)).data


async def test_the_oldest_items_make_room_where_truncation_is_automatic(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.max_model_len": 100})
    long = [
        {"role": "user", "content": "a" * 30},
        {"role": "assistant", "content": "b" * 30},
        {"role": "user", "content": "c" * 30},
        {"role": "assistant", "content": "d" * 30},
        {"role": "user", "content": "e" * 30},
    ]
    status, answer = await respond(gateway, input=long)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    cut = await made(gateway, input=long, truncation="auto", instructions="f")
    assert input_tokens(cut) == said("e" * 30, instructions="f")
    short = await made(gateway, input=long, truncation="auto", max_output_tokens=1)
    assert input_tokens(short) == said("c" * 30, "d" * 30, "e" * 30)
    within = [{"role": "user", "content": "a" * 90}, long[1]]
    assert input_tokens(await made(gateway, input=within, truncation="auto")) == said("b" * 30)
    status, answer = await respond(gateway, input="x" * 200, truncation="auto")
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    items = (await get(gateway, f"{cut['id']}/input_items"))[1]["data"]
    assert len(items) == len(long)


USER = {"role": "user", "content": "a" * 10}
LONG_USER = {"role": "user", "content": "a" * 100}
THOUGHT = {"type": "reasoning", "summary": []}


async def test_what_is_left_of_a_turn_that_is_cut_is_a_call_with_its_output(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.max_model_len": 100})
    kept = [call("c"), output("c"), THOUGHT]
    alone = await made(gateway, input=kept)
    cut = await made(gateway, input=[LONG_USER, *kept], truncation="auto")
    assert input_tokens(cut) == input_tokens(alone)


@pytest.mark.parametrize("instructions", ["Be kind.", None])
async def test_nothing_is_left_out_where_too_little_would_be_left_to_answer(
    start_gateway: StartGateway, instructions: str | None
) -> None:
    gateway = await start_gateway(**{"engine.max_model_len": 100})
    cases = [
        [USER, call("c"), {**output("c"), "output": "z" * 90}],
        [USER, call("c"), {**output("c"), "output": "z" * 90}, THOUGHT],
        [LONG_USER, THOUGHT],
        [LONG_USER, call("c", "incomplete")],
    ]
    for items in cases:
        status, answer = await respond(
            gateway, input=items, instructions=instructions, truncation="auto"
        )
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded"), items


def test_an_output_goes_with_its_call_also_where_a_later_call_has_its_id() -> None:
    again = [call("a"), {**output("a"), "output": "again"}]
    items = [call("a"), output("a"), *again]
    assert [later(items, place) for place in range(3)] == [items, again, again]


def test_most_is_dropped_where_one_more_would_leave_nothing_to_answer() -> None:
    cases = [
        [],
        [words("user", "Hi")],
        [words("user", "Hi"), thought("Hm.")],
        [words("user", "Hi"), call("a"), output("a"), thought("Hm.")],
        [words("user", "Hi"), call("a"), call("b"), output("a"), output("b")],
        [words("user", "Hi"), call("a"), output("a"), words("user", "Go on")],
        [call("a"), output("a"), call("b", "incomplete"), thought("Hm.")],
        [words("user", "Hi"), call("a"), output("a"), call("a"), output("a")],
    ]
    for items in cases:
        left = [
            any(item["type"] in ("message", "function_call_output") for item in later(items, place))
            for place in range(len(items) + 1)
        ]
        most = most_dropped(items)
        assert left == [place <= most and bool(items) for place in range(len(left))], items


def call(name: str, status: str = "completed") -> dict[str, Any]:
    return {
        "type": "function_call",
        "call_id": name,
        "name": "f",
        "arguments": "{}",
        "status": status,
    }


def output(name: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": name, "output": name}


def words(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    parts = [{"type": kind, "text": text} for text in texts]
    return {"type": "message", "role": role, "content": parts}


def thought(text: str) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
    }


async def test_schemas_are_looked_at_once_however_many_items_are_left_out(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []

    def checked_once(tool: Any, param: str) -> int:
        looked_at.append(tool.name)
        return check_tool_parameters(tool, param)

    monkeypatch.setattr(wire_tools, "check_tool_parameters", checked_once)
    items = [{"role": "user", "content": "x" * 100}] * 20
    response = await made(gateway, input=items, tools=TOOLS, truncation="auto")
    assert input_tokens(response) < 512
    assert looked_at == ["weather", "time"]


def test_what_an_assistant_thought_said_and_called_is_one_message() -> None:
    items = [
        words("user", "Hi", "there"),
        thought("Hm."),
        words("assistant", "I see."),
        call("a"),
        call("b"),
        output("b"),
        output("a"),
        thought("So."),
        call("c"),
        output("c"),
        words("assistant", "Done."),
    ]
    calls = [ToolCall(name, "f", "{}") for name in "abc"]
    assert messages(items, "Be kind.") == [
        ChatMessage("developer", "Be kind."),
        ChatMessage("user", "Hi\nthere"),
        ChatMessage("assistant", "I see.", tool_calls=tuple(calls[:2]), reasoning="Hm."),
        ChatMessage("tool", "b", tool_call_id="b"),
        ChatMessage("tool", "a", tool_call_id="a"),
        ChatMessage("assistant", "", tool_calls=(calls[2],), reasoning="So."),
        ChatMessage("tool", "c", tool_call_id="c"),
        ChatMessage("assistant", "Done."),
    ]


def test_reasoning_that_led_to_nothing_is_forgotten() -> None:
    items = [words("user", "Hi"), thought("Hm."), words("user", "Go on"), words("assistant", "Yes")]
    assert [message.reasoning for message in messages(items)] == [None, None, None]


def test_a_summary_stands_for_reasoning_where_it_is_all_there_is() -> None:
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    assert messages([item, words("assistant", "Yes")])[0].reasoning == "Hm."


def test_a_call_that_was_cut_short_is_left_out_unless_it_was_answered() -> None:
    cut = call("a", "incomplete")
    assert messages([words("user", "Hi"), cut]) == [ChatMessage("user", "Hi")]
    assert len(messages([words("user", "Hi"), cut, output("a")])) == 3


def test_an_output_in_front_of_its_call_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="No tool call found"):
        messages([output("a"), call("a")])


def test_what_an_assistant_refused_is_what_it_said() -> None:
    refused = {"type": "message", "role": "assistant", "content": [{"refusal": "No."}]}
    assert messages([refused]) == [ChatMessage("assistant", "No.")]
