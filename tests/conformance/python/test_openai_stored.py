"""openai: stored chat completions."""

from __future__ import annotations

import uuid
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from target import TARGET


def store(client: OpenAI, run: str, **fields: Any) -> ChatCompletion:
    return client.chat.completions.create(
        model=TARGET.model,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        max_completion_tokens=4,
        store=True,
        metadata={"run": run},
        **fields,
    )


@pytest.fixture
def run() -> str:
    """Metadata by which a test finds its own."""
    return uuid.uuid4().hex


def test_a_stored_completion_is_found_changed_and_deleted(client: OpenAI, run: str) -> None:
    made = store(client, run)
    found = client.chat.completions.retrieve(made.id)
    assert found.choices[0].message.content == made.choices[0].message.content
    changed = client.chat.completions.update(made.id, metadata={"run": run, "seen": "yes"})
    assert changed.model_dump()["metadata"] == {"run": run, "seen": "yes"}
    assert client.chat.completions.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(made.id)


def test_stored_completions_are_listed_by_their_metadata_in_pages(client: OpenAI, run: str) -> None:
    made = [store(client, run).id for _ in range(3)]
    listed = client.chat.completions.list(metadata={"run": run}, limit=2, order="asc")
    assert [one.id for one in listed] == made


def test_the_messages_of_a_stored_completion_are_listed(client: OpenAI, run: str) -> None:
    made = store(client, run)
    messages = list(client.chat.completions.messages.list(made.id))
    assert [message.content for message in messages] == ["Be brief.", "Hello"]


def test_what_is_streamed_is_stored_whole(client: OpenAI, run: str) -> None:
    chunks: Any = store(client, run, stream=True)
    text, made = "", ""
    for chunk in chunks:
        made = chunk.id
        text += chunk.choices[0].delta.content or ""
    assert client.chat.completions.retrieve(made).choices[0].message.content == text


def test_what_is_not_stored_is_not_found(client: OpenAI) -> None:
    made = client.chat.completions.create(
        model=TARGET.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=1
    )
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(made.id)
