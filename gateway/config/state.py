"""What outlives a request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from engine.config import Frozen

if TYPE_CHECKING:
    from sqlalchemy import URL

FORMS = (
    "expected sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:// for state in "
    "memory"
)
_ENCODED = (
    "the port is no number, or user or password have characters that end them: write such as @ : / "
    "percent-encoded, e.g. %40 for @"
)


def database_url(given: str) -> URL:
    """Raises ValueError, which tells nothing of what was given: it may hold a password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(given)
    except ArgumentError:
        raise ValueError(FORMS) from None
    except ValueError:  # what stands where the port would be
        raise ValueError(_ENCODED) from None
    if "@" in (url.host or ""):
        raise ValueError(_ENCODED)
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ValueError(FORMS)
    return url.set(database=at_home(url.database)) if url.database else url


def at_home(path: str) -> str:
    """`path` with its `~` resolved. Raises ValueError where nobody knows that home."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise ValueError("'~' leads nowhere here: write the whole path") from None


def _known(given: str) -> str:
    database_url(given)
    return given


class StateConfig(Frozen):
    """What outlives a request: stored completions, responses, conversations."""

    url: Annotated[str, AfterValidator(_known)] | None = Field(
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
