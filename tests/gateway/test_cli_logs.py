"""`gateway.logs`: one line per event, no secrets."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import logs

log = logging.getLogger("gateway.test")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, environ = root.handlers[:], dict(os.environ)
    yield
    root.handlers[:] = handlers
    logging.captureWarnings(False)
    os.environ.clear()
    os.environ.update(environ)


def test_an_event_is_one_line_with_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    log.info("listening", extra={"port": 8000, "model": "two words"})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('Z info gateway.test: listening port=8000 model="two words"')


def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("it broke")
    (line,) = capsys.readouterr().err.splitlines()
    assert "it broke exception=" in line
    assert r"ValueError: first\nsecond" in line


@given(st.text())
def test_no_message_breaks_the_line(message: str) -> None:
    record = logging.makeLogRecord({"msg": message.replace("%", ""), "name": "gateway"})
    line = logs.LineFormatter().format(record)
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    "message",
    [
        "Authorization: Bearer abcdef-123456",
        "key sk-abcdef-123456 refused",
        "token hf_abcdef123456",
        "postgres://user:abcdef-123456@host/db",
    ],
)
def test_secrets_in_messages_are_not_written(
    message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info")
    log.warning(message)
    written = capsys.readouterr().err
    assert "***" in written
    assert "123456" not in written


def test_secrets_in_facts_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    log.warning("called", extra={"api_key": "abcdef", "prompt_tokens": 3})
    assert capsys.readouterr().err.strip().endswith("called api_key=*** prompt_tokens=3")


def test_levels_hold_for_us_and_others_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    log.debug("unheard")
    logging.getLogger("somelibrary").info("unheard")
    logging.getLogger("somelibrary").warning("heard")
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == ["heard"]


def test_debug_lets_the_libraries_speak(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    logs.configure("debug")
    log.debug("heard")
    logging.getLogger("somelibrary").info("heard")
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_configuring_twice_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    logs.configure("warning")
    log.info("unheard")
    log.warning("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_uvicorn_writes_its_errors_but_no_access_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    logging.getLogger("uvicorn.access").info("GET /v1/models?key=secret")
    logging.getLogger("uvicorn.access").error("GET /v1/models?key=secret")
    logging.getLogger("uvicorn.error").error("broken")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("error uvicorn.error: broken")
