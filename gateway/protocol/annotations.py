"""What stands beside a model's text: annotations, and the log-probabilities of its tokens.

This server makes no annotations; clients bring those of other models. Source: the OpenAI API
reference, "The response object", `output_text`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from gateway.protocol.parse import WireModel

# As many as a token has bytes, or a vocabulary's longest.
_Bytes = Annotated[
    list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=4096, fail_fast=True)
]


class FileCitation(WireModel):
    type: Literal["file_citation"]
    file_id: str
    filename: str
    index: int


class UrlCitation(WireModel):
    type: Literal["url_citation"]
    url: str
    title: str
    start_index: int
    end_index: int


class ContainerFileCitation(WireModel):
    type: Literal["container_file_citation"]
    container_id: str
    file_id: str
    filename: str
    start_index: int
    end_index: int


class FilePath(WireModel):
    type: Literal["file_path"]
    file_id: str
    index: int


Annotation: TypeAlias = Annotated[
    FileCitation | UrlCitation | ContainerFileCitation | FilePath, Field(discriminator="type")
]


class TopLogprob(WireModel):
    """A token that might have stood there."""

    token: str
    bytes: _Bytes
    logprob: float


class Logprob(TopLogprob):
    """The token that does, and the likeliest."""

    top_logprobs: Annotated[list[TopLogprob], Field(max_length=128, fail_fast=True)]
