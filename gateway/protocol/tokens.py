"""`/tokenize` and `/detokenize`, as vLLM's server has them: exact counts before a request."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from engine.base import ChatMessage
from gateway.protocol.chat import Message
from gateway.protocol.parse import WireModel


class TokenizeRequest(WireModel):
    """Either `messages` (chat template applied) or `prompt` (text)."""

    model: str | None = None
    prompt: str | None = None
    messages: (
        Annotated[list[Message], Field(min_length=1, max_length=4096, fail_fast=True)] | None
    ) = None
    add_generation_prompt: bool = True
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one_of(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of 'prompt' and 'messages'")
        if not self.add_generation_prompt:
            raise ValueError("'add_generation_prompt' must be true: counts are those of a request")
        return self

    def conversation(self) -> list[ChatMessage]:
        return [message.flattened() for message in self.messages or ()]


class DetokenizeRequest(WireModel):
    """Token ids to turn into text."""

    model: str | None = None
    tokens: Annotated[list[int], Field(max_length=1_000_000, fail_fast=True)]
