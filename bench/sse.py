"""Reads an OpenAI event stream without decoding the JSON of every chunk.

Quotes inside a JSON string are escaped, so a raw `"usage":` or `"content":` can only be a key;
a search of the bytes is enough to tell content, usage, errors and the end apart.
"""

from __future__ import annotations

import json
import re
from typing import Any

_CONTENT = re.compile(rb'"(?:content|text|reasoning_content|reasoning)"\s*:\s*"[^"]')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ERROR = re.compile(rb'"error"\s*:\s*[{"]')


class StreamScan:
    """Feed it the bytes of one answer; it keeps what the measurement needs.

    `content_times` holds the arrival time of every chunk that carries text; several chunks that
    arrive in one read share its time. `usage` is the last one seen. `error` is the text of an
    error event. `done` says that `[DONE]` was received.
    """

    __slots__ = ("_rest", "content_times", "done", "error", "usage")

    def __init__(self) -> None:
        self.content_times: list[float] = []
        self.usage: dict[str, Any] | None = None
        self.error: str | None = None
        self.done = False
        self._rest = b""

    def feed(self, received: bytes, now: float) -> None:
        """Take the bytes received at time `now`; they may end anywhere in a line."""
        lines = (self._rest + received).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line, now)

    def _event(self, line: bytes, now: float) -> None:
        if _CONTENT.search(line):
            self.content_times.append(now)
        elif line[5:].strip() == b"[DONE]":
            self.done = True
            return
        elif _ERROR.search(line):
            self.error = line[5:].decode(errors="replace").strip()
            return
        if _USAGE.search(line):
            self._read_usage(line[5:])

    def _read_usage(self, payload: bytes) -> None:
        try:
            chunk = json.loads(payload)
        except ValueError:
            self.error = f"a chunk is not JSON: {payload[:200].decode(errors='replace')}"
            return
        usage = chunk.get("usage") if isinstance(chunk, dict) else None
        if isinstance(usage, dict):
            self.usage = usage
