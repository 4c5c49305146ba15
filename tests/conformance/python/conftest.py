"""Clients of the server under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI
from target import TARGET, TIMEOUT_S


@pytest.fixture(scope="session")
def client() -> Iterator[OpenAI]:
    with OpenAI(
        base_url=TARGET.base_url, api_key=TARGET.api_key, max_retries=0, timeout=TIMEOUT_S
    ) as sdk:
        yield sdk


@pytest.fixture
async def async_client() -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=TARGET.base_url, api_key=TARGET.api_key, max_retries=0, timeout=TIMEOUT_S
    ) as sdk:
        yield sdk


@pytest.fixture(scope="session")
def embedding_model() -> str:
    if not TARGET.embedding_model:
        pytest.skip("the server has no embedding model")
    return TARGET.embedding_model
