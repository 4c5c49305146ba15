"""langchain-tests: LangChain's own standard tests of a chat model and of embeddings."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from target import TARGET, TIMEOUT_S

CONNECTION: dict[str, Any] = {
    "base_url": TARGET.base_url,
    "api_key": TARGET.api_key,
    "max_retries": 0,
    "timeout": TIMEOUT_S,
}


class OneForcedCall(ChatOpenAI):
    """A model of 135 million parameters seldom calls a tool of its own accord, and once it does it
    goes on to call: what is offered must be called, and once."""

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **fields: Any) -> Any:
        fields.setdefault("parallel_tool_calls", False)
        return super().bind_tools(tools, tool_choice=tool_choice or "any", **fields)


class TestChat(ChatModelIntegrationTests):
    """Over `/v1/chat/completions`."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return OneForcedCall

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": TARGET.model,
            "temperature": 0,
            # Without it the likeliest tokens of so small a model are the same ones again and again.
            "extra_body": {"frequency_penalty": 0.5},
            "max_tokens": 256,
            "stream_usage": True,
            **CONNECTION,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return TARGET.second_model


class TestResponses(TestChat):
    """Over `/v1/responses`."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


class TestEmbeddings(EmbeddingsIntegrationTests):
    """Over `/v1/embeddings`."""

    @pytest.fixture(autouse=True)
    def served(self, embedding_model: str) -> None:
        """Skips where there is no embedding model."""

    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        # Else it sends token ids of OpenAI's own tokenizer.
        return {
            "model": TARGET.embedding_model,
            "check_embedding_ctx_length": False,
            **CONNECTION,
        }
