"""What outlives a request."""

from __future__ import annotations

from pydantic import Field

from engine.config import Frozen


class StateConfig(Frozen):
    """What outlives a request: stored completions, responses, conversations."""

    url: str | None = Field(
        None,
        min_length=1,
        description="sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:// to "
        "keep it in memory; default: gateway/state.db below $XDG_STATE_HOME",
    )
    retention_days: float = Field(
        30.0,
        gt=0,
        le=36_500,
        description="stored completions and responses are deleted after so long",
    )
    max_object_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="of one stored object, as JSON"
    )


class ResponsesConfig(Frozen):
    """Responses that are made in the background."""

    max_background: int = Field(
        64, ge=0, description="so many at once; more get 429 with retry-after"
    )
    replay_s: float = Field(
        300.0, gt=0, description="after its end a response's events can be streamed for so long"
    )
