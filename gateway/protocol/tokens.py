"""`/tokenize` and `/detokenize`, as vLLM's server has them: exact counts before a request."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from engine.base import Conversation
from gateway.protocol.conversation import Messages, flattened
from gateway.protocol.parse import WireModel
from gateway.protocol.tools import Tools, checked_tools


class TokenizeRequest(WireModel):
    """Either `messages` (chat template applied) or `prompt` (text)."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one_of(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of 'prompt' and 'messages'")
        if not self.add_generation_prompt:
            raise ValueError("'add_generation_prompt' must be true: counts are those of a request")
        return self

    def conversation(self) -> Conversation:
        """The messages and tools as the engine renders them. Raises InvalidPromptError."""
        tools = checked_tools([tool.tool() for tool in self.tools or ()])
        return Conversation(flattened(self.messages or ()), tools)


class DetokenizeRequest(WireModel):
    """Token ids to turn into text."""

    model: str | None = None
    tokens: Annotated[list[int], Field(max_length=1_000_000, fail_fast=True)]
