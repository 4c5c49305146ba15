"""openai: responses and conversations, with every helper the SDK has for them."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response
from shapes import ASK_PERSON, WEATHER_PARAMETERS, Person
from target import TARGET

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": WEATHER_PARAMETERS,
    "strict": True,
}
FORCED: Any = {
    "input": "What is the weather in Paris?",
    "tools": [WEATHER],
    "tool_choice": {"type": "function", "name": "get_weather"},
    "parallel_tool_calls": False,
    "max_output_tokens": 100,
}


def respond(client: OpenAI, **fields: Any) -> Response:
    fields = {
        "input": "What is the capital of Japan?",
        "max_output_tokens": 40,
        "temperature": 0,
        **fields,
    }
    return client.responses.create(model=TARGET.model, **fields)


def test_a_response_is_whole(client: OpenAI) -> None:
    answer = respond(client, instructions="Answer briefly.", metadata={"topic": "geography"})
    assert answer.id.startswith("resp_")
    assert (answer.object, answer.status, answer.model) == ("response", "completed", TARGET.model)
    assert (answer.error, answer.incomplete_details) == (None, None)
    assert (answer.instructions, answer.metadata) == ("Answer briefly.", {"topic": "geography"})
    (message,) = answer.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_response_that_reaches_its_limit_is_incomplete(client: OpenAI) -> None:
    answer = respond(client, input="Tell a long story.", max_output_tokens=16)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 16


def test_events_come_in_their_order(client: OpenAI) -> None:
    events = list(
        client.responses.create(
            model=TARGET.model,
            input="What is the capital of Japan?",
            temperature=0,
            max_output_tokens=40,
            stream=True,
        )
    )
    kinds = [event.type for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "".join(deltas)


def test_the_stream_helper_gives_the_final_response(client: OpenAI) -> None:
    text = ""
    with client.responses.stream(
        model=TARGET.model, input="Say hello.", temperature=0, max_output_tokens=40
    ) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
                assert event.snapshot == text
        final = stream.get_final_response()
    assert final.output_text == text


async def test_the_async_client_streams(async_client: AsyncOpenAI) -> None:
    stream = await async_client.responses.create(
        model=TARGET.model, input="Say hello.", max_output_tokens=16, stream=True
    )
    kinds = [event.type async for event in stream]
    assert kinds[-1] in {"response.completed", "response.incomplete"}


def test_parse_gives_what_the_schema_describes(client: OpenAI) -> None:
    answer = client.responses.parse(
        model=TARGET.model,
        input=ASK_PERSON,
        text_format=Person,
        temperature=0,
        max_output_tokens=100,
    )
    assert isinstance(answer.output_parsed, Person)
    with client.responses.stream(
        model=TARGET.model,
        input=ASK_PERSON,
        text_format=Person,
        temperature=0,
        max_output_tokens=100,
    ) as stream:
        stream.until_done()
        assert stream.get_final_response().output_parsed == answer.output_parsed


def test_a_call_and_its_output_make_a_turn(client: OpenAI) -> None:
    first = respond(client, **FORCED)
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.status) == ("get_weather", "completed")
    assert json.loads(call.arguments).keys() == {"city", "days"}
    output: Any = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": "It is sunny.",
    }
    after = {"tools": [WEATHER], "tool_choice": "none"}
    assert respond(client, previous_response_id=first.id, input=[output], **after).output_text
    whole: list[Any] = [{"role": "user", "content": FORCED["input"]}, *first.output, output]
    assert respond(client, input=whole, store=False, **after).output_text


def test_streamed_arguments_add_up(client: OpenAI) -> None:
    events = list(client.responses.create(model=TARGET.model, temperature=0, stream=True, **FORCED))
    told = "".join(
        event.delta for event in events if event.type == "response.function_call_arguments.delta"
    )
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert done.arguments == told
    assert events[-1].type == "response.completed"


def test_a_stored_response_is_found_until_it_is_deleted(client: OpenAI) -> None:
    made = respond(client)
    assert client.responses.retrieve(made.id).output == made.output
    (item,) = client.responses.input_items.list(made.id).data
    assert item.type == "message"
    assert item.content[0].type == "input_text"
    client.responses.delete(made.id)
    for missing in (client.responses.retrieve, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            missing(made.id)


def test_a_response_that_is_not_stored_is_not_found(client: OpenAI) -> None:
    made = respond(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_input_items_come_in_pages(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": f"number {n}"} for n in range(5)]
    made = respond(client, input=messages)
    listed = [
        item.content[0].text
        for item in client.responses.input_items.list(made.id, limit=2, order="asc")
    ]
    assert listed == [f"number {n}" for n in range(5)]


def test_a_background_response_is_polled(client: OpenAI) -> None:
    made = respond(client, background=True)
    assert made.status in {"queued", "in_progress"}
    deadline = time.monotonic() + 60
    while (now := client.responses.retrieve(made.id)).status in {"queued", "in_progress"}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert now.status == "completed"
    assert now.output_text


def test_a_background_response_is_cancelled(client: OpenAI) -> None:
    made = respond(client, input="Count to a thousand.", background=True, max_output_tokens=2000)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(respond(client).id)


def test_a_background_stream_is_taken_up_where_it_was_left(client: OpenAI) -> None:
    stream = client.responses.create(
        model=TARGET.model,
        input="Say hello.",
        temperature=0,
        max_output_tokens=40,
        background=True,
        stream=True,
    )
    seen = [event for event, _ in zip(stream, range(5), strict=False)]
    stream.close()
    created = seen[0]
    assert created.type == "response.created"
    rest = list(
        client.responses.retrieve(
            created.response.id, stream=True, starting_after=seen[-1].sequence_number
        )
    )
    assert rest[0].sequence_number == len(seen)
    assert rest[-1].type in {"response.completed", "response.incomplete"}


def test_input_tokens_are_counted_as_they_are_charged(client: OpenAI) -> None:
    asked: Any = {"input": "What is the capital of Japan?", "instructions": "Answer briefly."}
    counted = client.responses.input_tokens.count(model=TARGET.model, **asked)
    usage = respond(client, **asked).usage
    assert usage is not None
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", usage.input_tokens)


def test_a_conversation_keeps_what_is_said(client: OpenAI) -> None:
    conversation = client.conversations.create(metadata={"user": "ann"})
    assert conversation.id.startswith("conv_")
    first = respond(client, conversation=conversation.id)
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    second = respond(client, input="And of France?", conversation=conversation.id)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    items = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.type for item in items] == ["message"] * 4
    client.conversations.delete(conversation.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_a_conversations_items_and_metadata_change(client: OpenAI) -> None:
    conversation = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "Hello"}]
    )
    changed = client.conversations.update(conversation.id, metadata={"topic": "greeting"})
    assert changed.metadata == {"topic": "greeting"}
    added = client.conversations.items.create(
        conversation.id, items=[{"type": "message", "role": "user", "content": "Again"}]
    )
    (item,) = added.data
    assert item.type == "message"
    found = client.conversations.items.retrieve(item.id or "", conversation_id=conversation.id)
    assert found == item
    client.conversations.items.delete(item.id or "", conversation_id=conversation.id)
    assert len(list(client.conversations.items.list(conversation.id))) == 1


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "model"),
        ({"previous_response_id": "resp_none"}, openai.BadRequestError, "previous_response_id"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"extra_body": {"no_such": 1}}, openai.BadRequestError, "no_such"),
        ({"input": 5}, openai.BadRequestError, "input"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_a_refusal_is_the_exception_its_status_means(
    client: OpenAI, fields: Any, kind: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(kind) as error:
        client.responses.create(**{"model": TARGET.model, "input": "Hello", **fields})
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"
    assert error.value.request_id
