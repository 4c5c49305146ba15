"""LiteLLM: its SDK, pointed at an OpenAI-compatible server."""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest
from shapes import ASK_PERSON, WEATHER_TOOL, Person
from target import TARGET

JAPAN: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]
SERVER: dict[str, Any] = {
    "api_base": TARGET.base_url,
    "api_key": TARGET.api_key,
    "num_retries": 0,
    "max_retries": 0,
}
MODEL = f"openai/{TARGET.model}"


def complete(**fields: Any) -> Any:
    fields = {"messages": JAPAN, "temperature": 0, "max_tokens": 40, **fields}
    return litellm.completion(model=MODEL, **SERVER, **fields)


def test_a_completion() -> None:
    answer = complete()
    assert "Tokyo" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_with_usage() -> None:
    chunks = list(complete(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == complete().choices[0].message.content
    (usage,) = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert usage.completion_tokens > 0


async def test_an_async_stream() -> None:
    stream = await litellm.acompletion(
        model=MODEL, messages=JAPAN, temperature=0, max_tokens=40, stream=True, **SERVER
    )
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"


def test_a_tool_call_whole_and_streamed() -> None:
    fields: Any = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [WEATHER_TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 100,
    }
    answer = complete(**fields)
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    built = litellm.stream_chunk_builder(list(complete(stream=True, **fields)))
    (streamed,) = built.choices[0].message.tool_calls
    assert json.loads(streamed.function.arguments) == json.loads(call.function.arguments)
    assert streamed.function.name == call.function.name == "get_weather"


def test_a_pydantic_model_as_response_format() -> None:
    answer = complete(
        messages=[{"role": "user", "content": ASK_PERSON}], response_format=Person, max_tokens=100
    )
    assert Person.model_validate_json(answer.choices[0].message.content)


def test_a_text_completion() -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{TARGET.model}", prompt="Once", max_tokens=3, **SERVER
    )
    assert answer.choices[0].finish_reason == "length"


def test_a_response_whole_and_streamed() -> None:
    fields: Any = {
        "model": MODEL,
        "input": "What is the capital of Japan?",
        "temperature": 0,
        "max_output_tokens": 40,
        "api_base": TARGET.base_url,
        "api_key": TARGET.api_key,
    }
    whole = litellm.responses(**fields)
    assert whole.status == "completed"
    kinds = [str(getattr(event.type, "value", event.type)) for event in _events(fields)]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def _events(fields: dict[str, Any]) -> Any:
    return litellm.responses(**fields, stream=True)


def test_embeddings(embedding_model: str) -> None:
    answer = litellm.embedding(
        model=f"openai/{embedding_model}",
        input=["one", "two"],
        api_base=TARGET.base_url,
        api_key=TARGET.api_key,
    )
    assert [item["index"] for item in answer.data] == [0, 1]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model": "openai/no-such-model"}, litellm.NotFoundError),
        ({"temperature": 3}, litellm.BadRequestError),
        ({"api_key": "wrong"}, litellm.AuthenticationError),
        (
            {"messages": [{"role": "user", "content": "many words " * 6000}]},
            litellm.ContextWindowExceededError,
        ),
    ],
    ids=["model", "temperature", "key", "length"],
)
def test_a_refusal_is_the_exception_it_means(fields: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        litellm.completion(**{"model": MODEL, "messages": JAPAN, **SERVER, **fields})
