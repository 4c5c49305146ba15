"""`/v1/chat/completions`: the body of a request.

Source: the OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import structs
from pydantic import Field, StringConstraints

from engine.base import ChatMessage, InvalidPromptError, SamplingOptions, Tool
from gateway.protocol.conversation import Messages, flattened
from gateway.protocol.parse import Unsupported, WireModel
from gateway.protocol.sampling import INT31, Metadata, SamplingFields, ServiceTier
from gateway.protocol.tools import (
    ResponseFormat,
    Tools,
    WireToolChoice,
    checked_tools,
    tool_choice,
)
from gateway.turn import ToolChoice

MAX_LOGPROBS = 20

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class PromptCacheOptions(WireModel):
    """Accepted: the prefix cache works by itself."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: str | None = None


class ChatCompletionRequest(SamplingFields):
    """The body of a chat completion request."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1, lt=INT31)
    tools: Tools | None = None
    tool_choice: WireToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    reasoning_effort: ReasoningEffort | None = None
    modalities: (
        Annotated[list[Literal["text"]], Field(min_length=1, max_length=1, fail_fast=True)] | None
    ) = None
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: ServiceTier | None = None
    verbosity: Literal["medium"] | None = None
    prompt_cache_key: Annotated[str, StringConstraints(max_length=512)] | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    safety_identifier: Annotated[str, StringConstraints(max_length=512)] | None = None

    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    web_search_options: Unsupported = None

    def conversation(self) -> list[ChatMessage]:
        """The messages as the engine renders them. Raises InvalidPromptError."""
        return flattened(self.messages)

    def offered_tools(self) -> tuple[Tool, ...]:
        """Raises InvalidPromptError where the tools, or what is said of them, can't be used."""
        if self.tools is None:
            if self.tool_choice is not None or self.parallel_tool_calls is not None:
                field = "parallel_tool_calls" if self.tool_choice is None else "tool_choice"
                raise InvalidPromptError(
                    f"Invalid value for '{field}': '{field}' is only allowed when 'tools' are "
                    "specified.",
                    field,
                )
            return ()
        return checked_tools([tool.tool() for tool in self.tools])

    def choice(self) -> ToolChoice | None:
        return None if self.tool_choice is None else tool_choice(self.tool_choice)

    def options(self) -> SamplingOptions:
        """The engine's options. Raises InvalidPromptError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidPromptError(
                "Invalid value for 'top_logprobs': it is only allowed when 'logprobs' is true.",
                "top_logprobs",
            )
        options = self.sampling(max_tokens=self._token_limit())
        if not self.logprobs:
            return options
        return structs.replace(options, logprobs=self.top_logprobs or 0)

    def _token_limit(self) -> int | None:
        """How long the completion may be; None means the rest of the context."""
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise InvalidPromptError(
                "Set only one of 'max_tokens' and 'max_completion_tokens'; the latter replaces "
                "the former.",
                "max_tokens",
            )
        return self.max_completion_tokens or self.max_tokens
