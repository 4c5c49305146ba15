"""The contract between the gateway and a model that embeds or scores instead of generating."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from engine.base import LoadedModel, Prompt

Vector = bytes
"""An embedding: float32 numbers, little-endian, one after the other."""

Counted = Callable[[int, int], Awaitable[None]]
"""Is told how many tokens will be read, in how many inputs, and awaited before they are."""

Read = Callable[[int], None]
"""Is told how many tokens have been read whenever inputs are, as `stats()` counts them; also where
the whole fails or is cancelled later."""

ScoreKind = Literal["cosine", "cross-encoder"]


@dataclass(frozen=True, slots=True)
class PoolingInfo:
    """What a model does besides what `EngineInfo` tells.

    `dimensions` of an embedding, None where it makes none; `shorter` is which others may be asked
    for, empty where none. `scores` is how it compares two texts.
    """

    dimensions: int | None
    shorter: Sequence[int]
    scores: ScoreKind


@dataclass(frozen=True, slots=True)
class Scores:
    """One relevance for each pair, in order; and the exact number of tokens that were read."""

    values: Sequence[float]
    prompt_tokens: int


class Embedder(LoadedModel, Protocol):
    """A loaded model that embeds texts, or scores pairs of them. Both end, and are aborted, when
    the task that waits for them is cancelled."""

    @property
    def pooling(self) -> PoolingInfo: ...

    async def render(self, source: str | Sequence[int]) -> Prompt:
        """A text, or token ids, as what is embedded, with the model's control tokens.

        Raises InvalidPromptError: empty, or a token id out of the vocabulary; ContextLengthError.
        """
        ...

    async def embed(
        self,
        request_id: str,
        prompts: Sequence[Prompt],
        dimensions: int | None = None,
        read: Read | None = None,
    ) -> Sequence[Vector]:
        """One vector for each prompt, of length 1 where the model normalizes, as most do.

        Raises InvalidPromptError: the model makes no embeddings, or none of so many `dimensions`;
        EngineGenerateError, EngineDeadError.
        """
        ...

    async def score(
        self,
        request_id: str,
        pairs: Sequence[tuple[str, str]],
        counted: Counted | None = None,
        read: Read | None = None,
    ) -> Scores:
        """How well the second text of each pair answers the first: the cosine of their embeddings,
        -1..1, or what a cross-encoder says, 0..1.

        Raises InvalidPromptError, ContextLengthError, EngineGenerateError, EngineDeadError, and
        what `counted` raises.
        """
        ...
