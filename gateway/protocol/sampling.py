"""The sampling fields that chat and completions share, with the ranges of the OpenAI API
reference; below them the extensions that vLLM's server made common."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from engine.base import InvalidPromptError, SamplingOptions
from gateway.protocol.generation import GenerationBody
from gateway.protocol.parse import WireModel

INT31 = 2**31
INT64 = 2**63
MAX_CHOICES = 128
# Sixteen labels of so many characters, as the reference has it.
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class StreamOptions(WireModel):
    """What a stream carries besides deltas. `include_obfuscation` is accepted and has no
    effect: padding hides token lengths from observers of the wire, which TLS proxies see anyway.
    `continuous_usage_stats`, vLLM's, has an effect beside `include_usage`, as there."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(GenerationBody):
    """Sampling parameters; None means the API's default."""

    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1, lt=INT31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    stop: StopString | Annotated[list[StopString], Field(max_length=4, fail_fast=True)] | None = (
        None
    )
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)]
        | None
    ) = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None

    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: int | None = Field(None, ge=0, lt=INT31)
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=64, fail_fast=True)] | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        options = self.stream_options
        return bool(options and options.include_usage and options.continuous_usage_stats)

    def sampling(self, *, max_tokens: int | None) -> SamplingOptions:
        """The engine's options. Raises InvalidPromptError for what types alone can't refuse."""
        min_tokens = self.min_tokens or 0
        if max_tokens is not None and min_tokens > max_tokens:
            raise InvalidPromptError(
                f"Invalid 'min_tokens': {min_tokens} is more than the {max_tokens} tokens the "
                "completion may have.",
                "min_tokens",
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidPromptError(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                "stream_options",
            )
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingOptions(
            n=_or(self.n, 1),
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=max(_or(self.top_k, 0), 0),
            min_p=_or(self.min_p, 0.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            seed=self.seed,
            stop=stop,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logit_bias=_token_biases(self.logit_bias),
        )


ServiceTier = Literal["auto", "default", "flex", "scale", "priority"]
T = TypeVar("T")


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _token_biases(biases: dict[str, float] | None) -> dict[int, float] | None:
    if not biases:
        return None
    for token in biases:
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise InvalidPromptError(
                f"Invalid key in 'logit_bias': {token[:32]!r}. Keys must be token ids, whole "
                "numbers written as strings.",
                "logit_bias",
            )
    return {int(token): bias for token, bias in biases.items()}
