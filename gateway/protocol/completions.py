"""`/v1/completions`: request model. Source: the OpenAI API reference, "Completions"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import structs
from pydantic import Field
from typing_extensions import TypeIs

from engine.base import InvalidPromptError, SamplingOptions
from gateway.protocol.parse import Unsupported
from gateway.protocol.sampling import INT31, MAX_CHOICES, Metadata, SamplingFields

DEFAULT_MAX_TOKENS = 16
# The reference has it as the largest that can be asked for.
MAX_LOGPROBS = 5

Tokens = Annotated[list[int], Field(min_length=1, fail_fast=True)]
PromptList = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
TokensList = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]


class CompletionRequest(SamplingFields):
    """The body of a completion request; `prompt` is text, token ids, or a list of either.

    `max_tokens` may be 0 with `echo`: then the answer is the prompt alone.
    """

    prompt: str | Tokens | PromptList | TokensList
    max_tokens: int | None = Field(None, ge=0, lt=INT31)
    best_of: int | None = Field(None, ge=1, le=20)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    metadata: Metadata | None = None

    suffix: Unsupported = None

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, each to be completed `best_of` times. Raises InvalidPromptError."""
        if isinstance(self.prompt, str) or _is_tokens(self.prompt):
            return [self.prompt]
        if len(self.prompt) * self.made > MAX_CHOICES:
            raise InvalidPromptError(
                f"Invalid 'n': {len(self.prompt)} prompts completed {self.made} times each are "
                f"more than {MAX_CHOICES} choices.",
                "n",
            )
        return self.prompt

    @property
    def told(self) -> int:
        """How many completions of each prompt are told."""
        return self.n or 1

    @property
    def made(self) -> int:
        """How many completions of each prompt are made."""
        return self.best_of or self.told

    @property
    def prompt_only(self) -> bool:
        return self.max_tokens == 0

    def options(self) -> SamplingOptions:
        """The engine's options. Raises InvalidPromptError."""
        self._check()
        # The engine makes one token at least.
        limit = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens or 1
        wanted = self.logprobs if self.logprobs is not None or self.made == self.told else 0
        return structs.replace(
            self.sampling(max_tokens=limit),
            n=self.made,
            logprobs=wanted,
            prompt_logprobs=self.logprobs if self.echo else None,
        )

    def _check(self) -> None:
        if self.max_tokens == 0 and not self.echo:
            raise InvalidPromptError(
                "Invalid 'max_tokens': 0 is only allowed with 'echo'. Expected a value >= 1.",
                "max_tokens",
            )
        if self.made < self.told:
            raise InvalidPromptError(
                f"Invalid 'best_of': it must be at least 'n', which is {self.told}.", "best_of"
            )
        if self.stream and self.made > self.told:
            raise InvalidPromptError(
                "Invalid 'best_of': a stream can't be of the best, which only the end tells.",
                "best_of",
            )


def _is_tokens(prompt: list[int] | list[str] | list[list[int]]) -> TypeIs[list[int]]:
    return isinstance(prompt[0], int)
