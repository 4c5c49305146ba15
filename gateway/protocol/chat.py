"""`/v1/chat/completions`: request model and the JSON of its answers.

Source: the OpenAI API reference, "Chat Completions".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from engine.base import ChatMessage, InvalidPromptError
from gateway.protocol.parse import Unsupported, WireModel
from gateway.protocol.sampling import INT31, SamplingFields, ServiceTier


class TextPart(WireModel):
    """A piece of text content."""

    type: Literal["text"]
    text: str


class Message(WireModel):
    """One message of the conversation; `content` is text or a list of text parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
    name: Annotated[str, StringConstraints(max_length=64)] | None = None
    refusal: str | None = None
    annotations: Annotated[list[object], Field(max_length=128)] | None = None
    tool_calls: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None

    def flattened(self) -> ChatMessage:
        """Text parts joined by newlines; `developer` is what newer models call `system`, and
        chat templates of open models know only the latter."""
        text = (
            self.content
            if isinstance(self.content, str)
            else "\n".join(part.text for part in self.content)
        )
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role=role, content=text, name=self.name)


class ResponseFormat(WireModel):
    """Only plain text so far."""

    type: Literal["text"]


class ChatCompletionRequest(SamplingFields):
    """The body of a chat completion request."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1, lt=INT31)
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Literal[False] | None = None
    service_tier: ServiceTier | None = None
    prompt_cache_key: Annotated[str, StringConstraints(max_length=512)] | None = None
    safety_identifier: Annotated[str, StringConstraints(max_length=512)] | None = None

    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    logprobs: Literal[False] | None = None
    parallel_tool_calls: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    tool_choice: Unsupported = None
    tools: Unsupported = None
    top_logprobs: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    def conversation(self) -> list[ChatMessage]:
        """The messages as the engine renders them."""
        return [message.flattened() for message in self.messages]

    def token_limit(self) -> int | None:
        """How long the completion may be; None means the rest of the context."""
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise InvalidPromptError(
                "Set only one of 'max_tokens' and 'max_completion_tokens'; the latter replaces "
                "the former.",
                "max_tokens",
            )
        return self.max_completion_tokens or self.max_tokens
