"""Watches the logs of the whole suite for keys."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.auth import Authenticator

# Shorter ones are words like "none" that clients send where no key is needed.
MIN_CHARACTERS: Final = 16
MADE_BY_US: Final = re.compile(r"sk-gw-[A-Za-z0-9_-]{20,}")
OURS: Final = ("gateway", "engine", "uvicorn")

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({})))


class LeakFinder(logging.Handler):
    """Remembers records that hold a key: one that a caller has shown, or that looks like ours.

    It reads records as they are made, before anything is made unreadable in them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._keys: set[str] = set()

    def learn(self, shown: object) -> None:
        """What a caller has given as its key, `Bearer` or not."""
        if isinstance(shown, str):
            self._keys |= {word for word in shown.split() if len(word) >= MIN_CHARACTERS}

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] not in OURS:  # the clients of tests log what they send
            return
        text = everything(record)
        if MADE_BY_US.search(text) or any(key in text for key in self._keys):
            self.found.append(text)


def everything(record: logging.LogRecord) -> str:
    """A record's message, facts and exception."""
    facts = [str(value) for name, value in vars(record).items() if name not in _STANDARD]
    raised = traceback.format_exception(*record.exc_info) if record.exc_info else []
    return "\n".join([record.getMessage(), *facts, *raised])


@pytest.fixture(scope="session")
def leaks() -> Iterator[LeakFinder]:
    """Of the whole suite. Every key that any gateway in this process is asked about is known."""
    finder = LeakFinder()
    authenticate = Authenticator.authenticate

    def listening(self: Authenticator, *given: Any, **named: Any) -> Any:
        for shown in (*given, *named.values()):
            finder.learn(shown)
        return authenticate(self, *given, **named)

    levels = {name: logging.getLogger(name).level for name in OURS}
    logging.getLogger().addHandler(finder)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Authenticator, "authenticate", listening)
        yield finder
    logging.getLogger().removeHandler(finder)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(autouse=True)
def no_key_is_logged(leaks: LeakFinder) -> Iterator[None]:
    """A test that makes the gateway log a key fails."""
    yield
    found, leaks.found = leaks.found, []
    assert not found, f"a key was logged: {found}"
