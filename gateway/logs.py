"""Logging: one line per event on stderr, `key=value` after the message, no secrets, no bodies.

    2026-01-31T12:00:00.123Z info gateway.server: listening url=http://127.0.0.1:8000

Facts go into `extra`, so that they can be searched for: `log.info("listening", extra={"url": …})`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import time
import traceback
from contextlib import nullcontext
from functools import lru_cache
from typing import Final

_OURS: Final = ("gateway", "engine")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
    "vllm_process_name",
}
_SECRET_NAMES: Final = re.compile(
    r"authorization|api_?key|(?:^|_)token$|secret|password|pepper", re.IGNORECASE
)
_KEYS: Final = re.compile(r"\b(sk-|hf_)[A-Za-z0-9_\-]{8,}")
# Each with what a text must hold, in lower case, for it to match: that is looked for much faster.
_SECRETS: Final = (
    ("bearer", re.compile(r"(?i)(\bbearer\s+)\S{8,}")),
    ("sk-", _KEYS),
    ("hf_", _KEYS),
    ("://", re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)")),
)


class LineFormatter(logging.Formatter):
    """A record as one line: UTC time, level, logger, message, then `extra` as `key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = [
            f"{name}={'***' if _SECRET_NAMES.search(name) else _quoted(value)}"
            for name, value in vars(record).items()
            if name not in _STANDARD
        ]
        if record.exc_info and record.exc_info[0] is not None:
            facts.append(
                f"exception={_quoted(''.join(traceback.format_exception(*record.exc_info)))}"
            )
        when = _second(int(record.created))
        head = f"{when}.{int(record.msecs):03d}Z {record.levelname.lower()} {record.name}:"
        return _one_line(redacted(" ".join([head, record.getMessage().strip(), *facts])))


class _StderrLines(logging.Handler):
    """Ours, to be told from other people's handlers when logging is configured again.

    What a pass of the event loop has to say is written at its end, as one piece: a line for each
    request would be a system call for each, and wake up whoever reads. A warning doesn't wait, nor
    what is said outside of a loop.

    Looks `sys.stderr` up whenever it writes: whoever replaces it also gets the logs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LineFormatter())
        self._lines: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + "\n")
            loop = _running_loop() if record.levelno < logging.WARNING else None
            if loop is None:
                self.flush()
            elif loop is not self._loop:
                self._loop = loop
                loop.call_soon(self.flush)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        with self.lock or nullcontext():
            lines, self._lines, self._loop = self._lines, [], None
            stream = sys.stderr
            # There is none without a terminal on some systems, and none after the end.
            if lines and stream is not None and not stream.closed:
                stream.write("".join(lines))
                stream.flush()

    def close(self) -> None:
        self.flush()
        super().close()


def configure(level: str) -> None:
    """Send our own records from `level` up, and everybody else's warnings, to stderr.

    With `debug` the libraries speak too; vLLM reads that from the environment when it is
    imported, here and in the processes it starts. May be called again with another level.
    """
    root = logging.getLogger()
    for present in root.handlers[:]:
        if isinstance(present, _StderrLines):
            root.removeHandler(present)
            present.close()
    root.addHandler(_StderrLines())
    debug = level == "debug"
    others = logging.INFO if debug else max(logging.WARNING, logging.getLevelName(level.upper()))
    root.setLevel(others)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    _quieten_uvicorn(others)
    logging.captureWarnings(True)
    # No line of ours shows them, and each is asked for with every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if debug:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "DEBUG")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    """Told for every line of it, and slow to put together."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def redacted(text: str) -> str:
    """`text` with bearer tokens, keys and passwords in URLs made unreadable."""
    lowered = text.lower()
    for mark, pattern in _SECRETS:
        if mark in lowered:
            text = pattern.sub(r"\1***", text)
    return text


def _quieten_uvicorn(level: int) -> None:
    """Its errors come out as our lines; its access log, one line a request, never does."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn").setLevel(level)
    logging.getLogger("uvicorn.access").disabled = True


def _one_line(text: str) -> str:
    """`text` with line breaks and terminal controls spelled out: a log line can't be forged."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _quoted(value: object) -> str:
    """A bare word where that is unambiguous, else a JSON string."""
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json.dumps(text, ensure_ascii=False)
