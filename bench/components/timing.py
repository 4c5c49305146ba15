"""The server's own account of one request.

Source: W3C Server Timing, "The Server-Timing Header Field". In an event stream the same list stands
in a comment before the end, as a trailer would be lost on the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_METRIC = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*;[^;]*)*?\s*;\s*dur\s*=\s*(\d+(?:\.\d+)?)\s*(?:;.*)?"
)
_COMMENT = re.compile(rb"^: server-timing ([ -~]+)$", re.MULTILINE)
_TOTAL = "total"


@dataclass(frozen=True, slots=True)
class ServerTiming:
    """Milliseconds by stage, in the order they were told, and of the whole."""

    stages_ms: dict[str, float]
    total_ms: float


def parse(told: str) -> ServerTiming | None:
    """Read the value of a `Server-Timing` header; None where it has no total to add up to."""
    found = [_METRIC.fullmatch(one) for one in told.split(",")]
    stages = {one[1]: float(one[2]) for one in found if one is not None}
    total = stages.pop(_TOTAL, None)
    return None if total is None else ServerTiming(stages, total)


def parse_stream(body: bytes) -> ServerTiming | None:
    """The same from the comment within a whole stream; None where there is none."""
    found = _COMMENT.search(body)
    return None if found is None else parse(found[1].decode())
