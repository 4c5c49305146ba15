"""`/v1/embeddings`: request and answer. Source: the OpenAI API reference, "Embeddings"."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypeIs

from engine.pooling import Vector
from gateway.protocol.parse import WireModel

MAX_INPUTS = 2048
MAX_TOKENS = 300_000
"""Of all inputs of a request together."""

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[int], Field(min_length=1, fail_fast=True)]
TextList = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
TokensList = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]


def _form(source: object) -> str:
    """By the first element: so what is wrong is told of the form that was meant."""
    if not isinstance(source, list):
        return "Text"
    first = source[0] if source else ""
    if isinstance(first, list):
        return "TokensList"
    return "TextList" if isinstance(first, str) else "Tokens"


Input = Annotated[
    Annotated[Text, Tag("Text")]
    | Annotated[Tokens, Tag("Tokens")]
    | Annotated[TextList, Tag("TextList")]
    | Annotated[TokensList, Tag("TokensList")],
    Discriminator(_form),
]
EncodingFormat = Literal["float", "base64"]


class EmbeddingRequest(WireModel):
    """The body of an embedding request; `input` is text, token ids, or a list of either."""

    model: str
    input: Input
    encoding_format: EncodingFormat | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None

    def inputs(self) -> Sequence[str | list[int]]:
        """Each gets a vector of its own."""
        if isinstance(self.input, str) or _is_tokens(self.input):
            return [self.input]
        return self.input


def embedding_list(
    vectors: Sequence[Vector], model: str, prompt_tokens: int, encoding: EncodingFormat
) -> dict[str, Any]:
    """The answer's JSON object."""
    encoded = _base64 if encoding == "base64" else _floats
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encoded(vector)}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector).decode("ascii")


def _floats(vector: Vector) -> list[float]:
    return array("f", vector).tolist()


def _is_tokens(source: list[int] | list[str] | list[list[int]]) -> TypeIs[list[int]]:
    return isinstance(source[0], int)
