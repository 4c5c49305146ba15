"""`gateway.logs`: one line per event, no secrets."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
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


class Pieces(io.StringIO):
    """What is written, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


def listening(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to stderr from now on; pytest's own would be back after a fixture."""
    stderr = Pieces()
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure("info")
    return stderr.pieces


async def test_what_a_pass_of_the_loop_says_is_written_at_its_end_as_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = listening(monkeypatch)
    log.info("first")
    log.info("second")
    assert pieces == []
    await asyncio.sleep(0)
    log.info("third")
    await asyncio.sleep(0)
    assert [piece.count("\n") for piece in pieces] == [2, 1]
    assert ["first" in pieces[0], "second" in pieces[0], "third" in pieces[1]] == [True] * 3


async def test_a_warning_is_written_at_once_behind_what_was_said_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = listening(monkeypatch)
    log.info("first")
    log.warning("second")
    assert [line.rsplit(" ", 1)[1] for line in "".join(pieces).splitlines()] == ["first", "second"]


def test_nothing_is_lost_with_a_loop_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = listening(monkeypatch)

    async def say(text: str) -> None:
        log.info(text)

    for text in ("first", "second"):
        loop = asyncio.new_event_loop()
        loop.call_soon(loop.stop)
        said = loop.create_task(say(text))
        loop.run_forever()
        assert said.done()
        loop.close()
    log.info("third")
    assert [line.rsplit(" ", 1)[1] for line in "".join(pieces).splitlines()] == [
        "first",
        "second",
        "third",
    ]


def test_what_was_said_is_written_before_logging_is_configured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = listening(monkeypatch)

    async def say() -> None:
        log.info("first")
        logs.configure("warning")
        assert len(pieces) == 1

    asyncio.run(say())


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
