"""instructor: structured output in each of its modes."""

from __future__ import annotations

from typing import Any

import instructor
import pytest
from instructor import Mode
from openai import OpenAI
from shapes import ASK_PERSON, Person
from target import TARGET

MODES = [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.RESPONSES_TOOLS]


def asked(mode: Mode) -> dict[str, Any]:
    limit = "max_output_tokens" if mode == Mode.RESPONSES_TOOLS else "max_tokens"
    return {
        "model": TARGET.model,
        "messages": [{"role": "user", "content": ASK_PERSON}],
        "temperature": 0,
        limit: 200,
    }


@pytest.mark.parametrize("mode", [*MODES, Mode.JSON], ids=lambda mode: mode.name)
def test_a_model_is_filled(client: OpenAI, mode: Mode) -> None:
    sdk = instructor.from_openai(client, mode=mode)
    person = sdk.create(response_model=Person, max_retries=1, **asked(mode))
    assert isinstance(person, Person)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_model_is_filled_as_it_streams(client: OpenAI, mode: Mode) -> None:
    sdk = instructor.from_openai(client, mode=mode)
    states = list(sdk.create_partial(response_model=Person, **asked(mode)))
    assert len(states) > 1
    assert Person.model_validate(states[-1].model_dump()).favourite


def test_the_completion_comes_with_the_model(client: OpenAI) -> None:
    sdk = instructor.from_openai(client, mode=Mode.TOOLS)
    person, completion = sdk.create_with_completion(
        response_model=Person, max_retries=1, **asked(Mode.TOOLS)
    )
    (call,) = completion.choices[0].message.tool_calls
    assert Person.model_validate_json(call.function.arguments).age == person.age
