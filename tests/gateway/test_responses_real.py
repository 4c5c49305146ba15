"""The Responses API with a real engine, through the openai SDK."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.gateway.conftest import MODEL, LiveGateway
from tests.gateway.responding import checked, same

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Zürich"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "name": "weather", "parameters": CITY, "strict": True},
    {"type": "function", "name": "population", "parameters": CITY},
]
QUESTION = "What is the weather in Paris?"


class Place(BaseModel):
    """A place in a form that a small model can't leave."""

    name: Literal["Seine", "Paris"]
    kind: Literal["city", "river"]


async def ask(tiny_gateway: LiveGateway, **fields: Any) -> tuple[Response, Response]:
    """The response, whole, and as the last event of a stream has it."""
    fields = {"model": MODEL, "temperature": 0, "max_output_tokens": 64, **fields}
    # The prefix cache knows the prompt from now on: both are computed alike.
    await tiny_gateway.openai.responses.create(**{**fields, "max_output_tokens": 1})
    whole = await tiny_gateway.openai.responses.create(**fields)
    async with tiny_gateway.openai.responses.stream(**fields) as stream:
        final = [event async for event in stream][-1]
    return whole, final.response  # type: ignore[union-attr]


def plain(response: Response) -> dict[str, Any]:
    """Without ids, times, and what the cache knew."""
    found = same(response.model_dump(mode="json", exclude={"output": {"__all__": {"parsed"}}}))
    found["usage"].pop("input_tokens_details")
    for item in found["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "What is 2+2?"},
        {"input": "Count to fifty.", "max_output_tokens": 20},
        {"input": "What is 2+2?", "include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"input": QUESTION, "tools": TOOLS, "tool_choice": "required"},
        {"input": QUESTION, "tools": TOOLS, "tool_choice": "auto"},
        {"input": "Name a river.", "text": {"format": {"type": "json_object"}}},
    ],
)
async def test_whole_and_streamed_say_the_same(
    tiny_gateway: LiveGateway, fields: dict[str, Any]
) -> None:
    whole, streamed = await ask(tiny_gateway, **fields)
    assert plain(whole) == plain(streamed)
    stored = await tiny_gateway.openai.responses.retrieve(streamed.id)
    assert plain(stored) == plain(streamed)
    checked(stored.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "population"}),
        ({"type": "function", "name": "population"}, {"population"}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "weather"}],
            },
            {"weather"},
        ),
    ],
)
async def test_a_forced_call_names_a_function_and_follows_its_schema(
    tiny_gateway: LiveGateway, choice: Any, names: set[str]
) -> None:
    response = await tiny_gateway.openai.responses.create(
        model=MODEL, input=QUESTION, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False
    )
    (call,) = response.output
    assert call.type == "function_call"
    assert call.name in names
    assert json.loads(call.arguments).keys() == {"city"}
    assert response.status == "completed"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    after = await tiny_gateway.openai.responses.create(
        model=MODEL, input=[output], previous_response_id=response.id, max_output_tokens=16
    )
    assert after.output_text
    assert after.usage
    assert response.usage
    assert after.usage.input_tokens > response.usage.input_tokens - 200


async def test_a_parsed_response_follows_its_type(tiny_gateway: LiveGateway) -> None:
    parsed = await tiny_gateway.openai.responses.parse(
        model=MODEL, input="Name a river.", text_format=Place, max_output_tokens=64
    )
    assert isinstance(parsed.output_parsed, Place)


async def test_a_conversation_is_remembered_turn_by_turn(tiny_gateway: LiveGateway) -> None:
    responses = tiny_gateway.openai.responses
    fields: Any = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}
    first = await responses.create(**fields, input="What is the capital of Japan?")
    second = await responses.create(**fields, input="And its river?", previous_response_id=first.id)
    spelled = await responses.create(
        **fields,
        input=[
            {"role": "user", "content": "What is the capital of Japan?"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And its river?"},
        ],
    )
    assert second.usage
    assert spelled.usage
    assert second.usage.input_tokens == spelled.usage.input_tokens
    counted = await responses.input_tokens.count(
        model=MODEL, input="And its river?", previous_response_id=first.id
    )
    assert counted.input_tokens == second.usage.input_tokens
    assert second.output_text


async def test_a_background_response_is_the_same(tiny_gateway: LiveGateway) -> None:
    responses = tiny_gateway.openai.responses
    fields: Any = {"model": MODEL, "temperature": 0, "input": "What is 2+2?"}
    whole = await responses.create(**fields, max_output_tokens=16)
    queued = await responses.create(**fields, max_output_tokens=16, background=True)
    while queued.status in ("queued", "in_progress"):
        queued = await responses.retrieve(queued.id)
    assert queued.output_text == whole.output_text


async def test_cancelling_frees_the_engine(tiny_gateway: LiveGateway) -> None:
    responses = tiny_gateway.openai.responses
    queued = await responses.create(model=MODEL, input="Count to 500.", background=True)
    cancelled = await responses.cancel(queued.id)
    assert cancelled.status == "cancelled"
    await tiny_gateway.idle()
    assert tiny_gateway.engine.stats().running == 0
