"""`/v1/completions`: request model. Source: the OpenAI API reference, "Completions"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from typing_extensions import TypeIs

from engine.base import InvalidPromptError
from gateway.protocol.parse import Unsupported
from gateway.protocol.sampling import MAX_CHOICES, SamplingFields

DEFAULT_MAX_TOKENS = 16

Tokens = Annotated[list[int], Field(min_length=1, fail_fast=True)]
PromptList = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
TokensList = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]


class CompletionRequest(SamplingFields):
    """The body of a completion request; `prompt` is text, token ids, or a list of either."""

    prompt: str | Tokens | PromptList | TokensList
    metadata: (
        Annotated[
            dict[str, Annotated[str, StringConstraints(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None

    best_of: Unsupported = None
    echo: Literal[False] | None = None
    logprobs: Unsupported = None
    suffix: Unsupported = None

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, each to be completed `n` times."""
        if isinstance(self.prompt, str) or _is_tokens(self.prompt):
            return [self.prompt]
        if len(self.prompt) * (self.n or 1) > MAX_CHOICES:
            raise InvalidPromptError(
                f"Invalid 'n': {len(self.prompt)} prompts completed {self.n} times each are more "
                f"than {MAX_CHOICES} choices.",
                "n",
            )
        return self.prompt

    def token_limit(self) -> int:
        """How long each completion may be: 16 tokens unless the request says otherwise."""
        return self.max_tokens or DEFAULT_MAX_TOKENS


def _is_tokens(prompt: list[int] | list[str] | list[list[int]]) -> TypeIs[list[int]]:
    return isinstance(prompt[0], int)
