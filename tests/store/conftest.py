"""Open stores: on SQLite, on PostgreSQL, and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.config import StateConfig
from gateway.store.state import Store

OpenStore = Callable[..., Store]


class Clock:
    """Seconds since the epoch, as far as a test lets them pass."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Databases that several gateways can use at once, and then the one that is only its own.
SHARED = ["sqlite", "postgresql"]


@pytest.fixture(params=[*SHARED, "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database."""
    if request.param == "memory":
        return "sqlite://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/state.db"
    server: str = request.getfixturevalue("postgres_url")
    return server


@pytest.fixture
async def open_store(url: str, clock: Clock) -> AsyncIterator[OpenStore]:
    """Open stores of one database (in memory each has its own); all are closed at the end."""
    async with AsyncExitStack() as stack:

        def open_it(**settings: Any) -> Store:
            store = Store(StateConfig(url=url, **settings), clock)
            stack.push_async_callback(store.close)
            return store

        yield open_it


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


def completion(number: int | str, **fields: Any) -> dict[str, Any]:
    """A `chat.completion`, created `number` seconds after a moment."""
    created = 1_700_000_000 + (number if isinstance(number, int) else 0)
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": created,
        "model": "tiny",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "é\u0000☃"}}],
        **fields,
    }


def response(number: int, **fields: Any) -> dict[str, Any]:
    """A `response` that has ended."""
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1_800_000_000.0 + number,
        "status": "completed",
        "output": [{"id": f"msg_answer{number}", "type": "message"}],
        "previous_response_id": None,
        **fields,
    }


def item(name: str) -> dict[str, Any]:
    """A user's message with an id made of `name`."""
    return {"id": f"msg_{name}", "type": "message", "role": "user", "content": name}


USER = [{"role": "user", "content": "Hi"}]
