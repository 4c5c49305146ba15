"""The servers of the tests, as CI and `make test-services` start them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from scripts.services import PACKAGES, missing

ROOT = Path(__file__).resolve().parent.parent
TELL = "import json, os; print(json.dumps(dict(os.environ)), flush=True); "

installed = pytest.mark.skipif(
    bool(missing()) and not os.environ.get("GATEWAY_TEST_REQUIRE_SERVICES"),
    reason=f"not installed: {', '.join(missing())}",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """For temporary files, and unlike `tmp_path` open to the account that the servers run as."""
    made = Path(tempfile.mkdtemp(prefix="gateway-test-"))
    made.chmod(0o711)
    yield made
    # Servers that were told to end still remove files of theirs after they stopped answering.
    give_up = time.monotonic() + 60
    while working_in(made) and time.monotonic() < give_up:
        time.sleep(0.1)
    shutil.rmtree(made)


def working_in(folder: Path) -> list[int]:
    """The processes whose working directory lies there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
    return found


def beside_servers(code: str, folder: Path, **environ: str) -> subprocess.Popen[str]:
    """A Python program beside servers of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.services", sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(program: subprocess.Popen[str]) -> dict[str, Any]:
    """The environment that the command has told."""
    assert program.stdout is not None
    found: dict[str, Any] = json.loads(program.stdout.readline())
    return found


def answering(environ: Mapping[str, str]) -> list[str]:
    """Which of the servers answer."""
    found = []
    try:
        with psycopg.connect(environ["GATEWAY_TEST_POSTGRES"], connect_timeout=5):
            found.append("postgres")
    except psycopg.OperationalError:
        pass
    try:
        with redis.Redis.from_url(environ["GATEWAY_TEST_REDIS"]) as client:
            client.ping()
        found.append("redis")
    except redis.RedisError:
        pass
    return found


@installed
def test_a_command_has_servers_until_it_ends_and_gives_its_exit_code(folder: Path) -> None:
    code = f"{TELL} input(); raise SystemExit(7)"
    with beside_servers(code, folder, PGHOST="elsewhere", PGPORT="1") as program:
        environ = told(program)
        assert answering(environ) == ["postgres", "redis"]
        assert not [name for name in environ if name.startswith("PG")]
        program.communicate("\n", timeout=60)
    assert program.returncode == 7
    assert answering(environ) == []
    assert list(folder.iterdir()) == []


@installed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_servers_end_with_whoever_started_them(number: signal.Signals, folder: Path) -> None:
    # The command ends with its standard input, also where nobody is left to stop it.
    with beside_servers(f"{TELL} input()", folder) as program:
        environ = told(program)
        program.send_signal(number)
        program.communicate(timeout=60)
    give_up = time.monotonic() + 30
    while answering(environ) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert answering(environ) == []


@installed
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as somebody else")
def test_a_temporary_folder_that_is_closed_to_the_servers_is_passed_over(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with beside_servers(TELL, tmp_path) as program:
        environ = told(program)
        program.communicate(timeout=60)
    assert program.returncode == 0
    assert environ["TMPDIR"] == str(tmp_path)


@installed
def test_an_interrupt_before_the_servers_are_ready_leaves_nothing(folder: Path) -> None:
    with beside_servers(TELL, folder) as program:
        give_up = time.monotonic() + 30
        while not working_in(folder) and time.monotonic() < give_up:
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        out, errors = program.communicate(timeout=60)
    assert (program.returncode, out, errors) == (130, "", "")
    assert working_in(folder) == []
    assert list(folder.iterdir()) == []


@installed
def test_a_command_that_does_not_exist_is_a_wrong_argument() -> None:
    command = [sys.executable, "-m", "scripts.services", "no-such-command"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "there is no command no-such-command" in refused.stderr


def test_without_servers_it_says_what_to_install(tmp_path: Path) -> None:
    refused = subprocess.run(
        [
            *(sys.executable, "-c"),
            "from scripts import servers, services; servers.MORE_FOLDERS = '/nowhere'; "
            "services.main()",
            "true",
        ],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert f"apt-get install {' '.join(PACKAGES)}" in refused.stderr
    assert refused.returncode != 0
