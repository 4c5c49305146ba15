"""openai: models, legacy completions, embeddings, and what the SDK raises for refusals."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest
from openai import OpenAI
from target import TARGET

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def test_models_are_listed_and_found(client: OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {TARGET.model, TARGET.second_model} <= listed.keys()
    found = client.models.retrieve(TARGET.model)
    assert found == listed[TARGET.model]
    assert (found.object, bool(found.owned_by)) == ("model", True)
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("no-such-model")
    assert error.value.code == "model_not_found"


def test_a_prompt_is_completed(client: OpenAI) -> None:
    answer = client.completions.create(
        model=TARGET.model, prompt="Once upon a", max_tokens=5, temperature=0
    )
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_a_prompts_stream_adds_up(client: OpenAI) -> None:
    fields: Any = {"prompt": "Once upon a", "max_tokens": 5, "temperature": 0}
    whole = client.completions.create(model=TARGET.model, **fields)
    chunks = list(client.completions.create(model=TARGET.model, stream=True, **fields))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_several_prompts_choices_and_their_echo(client: OpenAI) -> None:
    answer = client.completions.create(
        model=TARGET.model, prompt=["One", "Two"], n=2, max_tokens=2, echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[:3] for choice in answer.choices] == ["One", "One", "Two", "Two"]


def test_an_echo_without_a_completion_scores_the_prompt(client: OpenAI) -> None:
    answer = client.completions.create(
        model=TARGET.model, prompt="One two three", max_tokens=0, echo=True, logprobs=1
    )
    (choice,) = answer.choices
    assert choice.text == "One two three"
    assert choice.logprobs is not None
    tokens, scores = choice.logprobs.tokens or [], choice.logprobs.token_logprobs or []
    assert "".join(tokens) == choice.text
    assert scores[0] is None
    assert all(score <= 0 for score in scores[1:])
    assert choice.logprobs.text_offset == [0, *(len("".join(tokens[:n])) for n in range(1, 3))]


def test_embeddings_are_unit_vectors_for_each_text(client: OpenAI, embedding_model: str) -> None:
    texts = ["The cat sits on the mat.", "A cat is on a mat.", "Stocks fell on Monday."]
    answer = client.embeddings.create(model=embedding_model, input=texts)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0
    cat, mat, stocks = (item.embedding for item in answer.data)
    assert math.hypot(*cat) == pytest.approx(1, abs=1e-3)
    assert dot(cat, mat) > dot(cat, stocks)


def dot(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def test_embeddings_say_the_same_in_base64_and_numbers(
    client: OpenAI, embedding_model: str
) -> None:
    fields: Any = {"model": embedding_model, "input": "Hello"}
    numbers = client.embeddings.create(encoding_format="float", **fields).data[0].embedding
    assert client.embeddings.create(**fields).data[0].embedding == pytest.approx(numbers, abs=1e-3)


def test_a_wrong_key_is_an_authentication_error(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as error:
        client.with_options(api_key="wrong").models.list()
    assert error.value.code == "invalid_api_key"
    assert error.value.request_id


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "model_not_found", "model"),
        ({"temperature": 3}, openai.BadRequestError, None, "temperature"),
        ({"messages": []}, openai.BadRequestError, None, "messages"),
        ({"messages": [{"role": "user"}]}, openai.BadRequestError, None, "messages[0].content"),
        ({"extra_body": {"no_such": 1}}, openai.BadRequestError, None, "no_such"),
        ({"n": 0}, openai.BadRequestError, None, "n"),
        (
            {"messages": [{"role": "user", "content": "many words " * 6000}]},
            openai.BadRequestError,
            "context_length_exceeded",
            "messages",
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_a_refusal_is_the_exception_its_status_means(
    client: OpenAI, fields: Any, kind: type[openai.APIStatusError], code: str, param: str
) -> None:
    with pytest.raises(kind) as error:
        client.chat.completions.create(**{"model": TARGET.model, "messages": HELLO, **fields})
    if code is not None:
        assert error.value.code == code
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"
    assert error.value.message
    assert error.value.request_id


def test_an_unknown_address_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.post("/no-such-thing", body={}, cast_to=object)
    assert error.value.type == "invalid_request_error"
