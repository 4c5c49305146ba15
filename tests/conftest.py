"""What every test needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.engines import checkpoint, engines, without_template
from tests.leaks import leaks, no_key_is_logged
from tests.services import postgres_url, redis_url

_OURS = ("gateway", "engine", "uvicorn")

__all__ = [
    "checkpoint",
    "engines",
    "leaks",
    "no_key_is_logged",
    "postgres_url",
    "redis_url",
    "without_template",
]


# A slow example on a busy machine says nothing about what is tested.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def no_state_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs that tests start keep their state in a directory of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """A test that configures the program's logging, as commands do, leaves it as it was."""
    names = [None, *logging.root.manager.loggerDict]
    ours = [logging.getLogger(name) for name in names if name is None or name.startswith(_OURS)]
    before = [(logger, logger.level, logger.propagate, logger.disabled) for logger in ours]
    yield
    for logger, level, propagate, disabled in before:
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
