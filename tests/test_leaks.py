"""What the whole suite is watched by does see keys."""

from __future__ import annotations

import logging

import pytest

from tests.leaks import LeakFinder

KEY = "0123456789abcdef-0123456789abcdef"
VIRTUAL = "sk-gw-" + "a1B2" * 10


def found_in(name: str, message: str, **facts: object) -> list[str]:
    finder = LeakFinder()
    finder.learn(f"Bearer {KEY}")
    finder.learn(None)
    finder.emit(logging.makeLogRecord({"name": name, "msg": message, **facts}))
    return finder.found


@pytest.mark.parametrize("key", [KEY, VIRTUAL])
def test_a_key_is_seen_wherever_a_record_holds_it(key: str) -> None:
    error = ValueError(f"no {key}")
    assert found_in("gateway.auth", f"refused {key}")
    assert found_in("engine.models", "refused", given=f"Bearer {key}")
    assert found_in("uvicorn.error", "refused", exc_info=(ValueError, error, None))


def test_what_only_tells_which_key_it_was_is_let_through() -> None:
    assert found_in("gateway.auth", f"refused {VIRTUAL[:10]}…{VIRTUAL[-4:]}") == []
    assert found_in("gateway.auth", "Bearer authentication, 16 characters at least") == []


def test_what_the_tests_own_clients_log_is_their_business() -> None:
    assert found_in("openai._base_client", f"sent {KEY}") == []
