"""What every test needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.engines import checkpoint, engines, without_template
from tests.leaks import leaks, no_key_is_logged
from tests.services import postgres_url, redis_url

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
