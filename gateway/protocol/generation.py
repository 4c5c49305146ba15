"""What the body of every endpoint that generates says."""

from __future__ import annotations

from pydantic import Field

from gateway.protocol.parse import WireModel


class GenerationBody(WireModel):
    """Who is to answer, and whether as a stream of events."""

    model: str = Field(min_length=1, max_length=256)
    stream: bool | None = None
