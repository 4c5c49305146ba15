"""`/v1/rerank`, as Cohere and Jina have it, and `/v1/score`, as vLLM's server has it.

Sources: Cohere's and Jina's API references, "Rerank"; vLLM's documentation, "Score API".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from engine.pooling import Scores
from gateway.protocol.embeddings import MAX_INPUTS, Text, TextList
from gateway.protocol.parse import WireModel


class TextDocument(WireModel):
    """A document as an object."""

    text: Text


class RerankRequest(WireModel):
    """Order `documents` by how well they answer `query`; the best `top_n` of them, or all."""

    model: str
    query: Text
    documents: Annotated[
        list[Text | TextDocument], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)
    ]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = None
    user: str | None = None

    def texts(self) -> list[str]:
        """The documents' texts, in the order they came."""
        return [
            document if isinstance(document, str) else document.text for document in self.documents
        ]


class ScoreRequest(WireModel):
    """Compare two texts, one with each of several, or the texts of two lists in pairs."""

    model: str
    text_1: Text | TextList
    text_2: Text | TextList
    user: str | None = None

    @model_validator(mode="after")
    def _pairs_up(self) -> ScoreRequest:
        first, second = _listed(self.text_1), _listed(self.text_2)
        if len(first) not in (1, len(second)):
            raise ValueError(
                f"'text_1' has {len(first)} texts and 'text_2' has {len(second)}; give one "
                "'text_1' for all, or as many as there are in 'text_2'"
            )
        return self

    def pairs(self) -> list[tuple[str, str]]:
        """What is compared with what."""
        first, second = _listed(self.text_1), _listed(self.text_2)
        return list(zip(first * len(second) if len(first) == 1 else first, second, strict=True))


def ranking(answer_id: str, model: str, request: RerankRequest, scores: Scores) -> dict[str, Any]:
    """The answer to a rerank request, the best document first; equal ones as they came."""
    texts = request.texts()
    order = sorted(range(len(texts)), key=lambda index: -scores.values[index])
    return {
        "id": answer_id,
        "model": model,
        "results": [
            {
                "index": index,
                "relevance_score": scores.values[index],
                **({"document": {"text": texts[index]}} if request.return_documents else {}),
            }
            for index in order[: request.top_n]
        ],
        "usage": _usage(scores),
    }


def score_list(answer_id: str, model: str, scores: Scores) -> dict[str, Any]:
    """The answer to a score request."""
    return {
        "id": answer_id,
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [
            {"index": index, "object": "score", "score": value}
            for index, value in enumerate(scores.values)
        ],
        "usage": _usage(scores),
    }


def _usage(scores: Scores) -> dict[str, int]:
    return {"prompt_tokens": scores.prompt_tokens, "total_tokens": scores.prompt_tokens}


def _listed(text: str | Sequence[str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text)
