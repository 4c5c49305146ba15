"""pydantic-ai: agents over both of OpenAI's APIs."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.messages import ToolCallPart, ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from shapes import ASK_PERSON, Colour, Person
from target import TARGET

BRIEF = ModelSettings(temperature=0, max_tokens=100, parallel_tool_calls=False)


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, async_client: AsyncOpenAI) -> Model:
    made: Model = request.param(TARGET.model, provider=OpenAIProvider(openai_client=async_client))
    return made


async def test_an_agent_answers(model: Model) -> None:
    agent = Agent(model, instructions="Answer briefly.")
    settings = ModelSettings(temperature=0, max_tokens=100)
    result = await agent.run("What is the capital of Japan?", model_settings=settings)
    assert result.output
    assert result.usage.output_tokens > 0


async def test_an_agent_goes_on_from_what_was_said(model: Model) -> None:
    agent = Agent(model)
    settings = ModelSettings(temperature=0, max_tokens=40)
    first = await agent.run("My name is Ann.", model_settings=settings)
    second = await agent.run(
        "Hello again.", message_history=first.all_messages(), model_settings=settings
    )
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_an_agents_text_streams(model: Model) -> None:
    settings = ModelSettings(temperature=0, max_tokens=40)
    async with Agent(model).run_stream("Say hello.", model_settings=settings) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        assert await result.get_output() == "".join(pieces)
        assert result.usage.output_tokens > 0


@pytest.mark.parametrize("how", [ToolOutput, NativeOutput])
async def test_an_agent_gives_a_pydantic_model(model: Model, how: Any) -> None:
    settings = BRIEF if how is ToolOutput else ModelSettings(temperature=0, max_tokens=100)
    result = await Agent(model, output_type=how(Person), model_settings=settings).run(ASK_PERSON)
    assert isinstance(result.output, Person)


async def test_a_pydantic_model_streams(model: Model) -> None:
    agent = Agent(model, output_type=ToolOutput(Person), model_settings=BRIEF)
    async with agent.run_stream(ASK_PERSON) as result:
        assert isinstance(await result.get_output(), Person)


async def test_an_agent_calls_a_tool_and_tells_its_result(model: Model) -> None:
    called: list[Colour] = []
    agent = Agent(model)

    @agent.tool_plain
    def like(colour: Colour) -> str:
        """Say which colour is liked."""
        called.append(colour)
        return "noted"

    chat = isinstance(model, OpenAIChatModel)
    forced = {"function": {"name": "like"}} if chat else {"name": "like"}
    # An agent would never end that must always call: pydantic-ai itself refuses to ask for it.
    settings: ModelSettings = {
        **BRIEF,
        "extra_body": {"tool_choice": {"type": "function", **forced}},
    }
    async with agent.iter("I like green.", model_settings=settings) as run:
        async for _ in run:
            if run.usage.requests == 2:
                break
    parts = [part for message in run.all_messages() for part in message.parts]
    assert next(part.tool_name for part in parts if isinstance(part, ToolCallPart)) == "like"
    assert next(part.content for part in parts if isinstance(part, ToolReturnPart)) == "noted"
    assert called
