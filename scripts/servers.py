"""A PostgreSQL and a Redis of one's own: on free ports of 127.0.0.1, with random passwords, and
everything they keep in one folder. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from stat import S_IXOTH

START_S = 60.0
STOP_S = 20.0
POLL_S = 0.05
PORTS_TRIED = 5
PR_SET_PDEATHSIG = 1
# Debian keeps PostgreSQL's programs off the PATH.
MORE_FOLDERS = "/usr/lib/postgresql/*/bin"
POSTGRES = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
fsync = off
"""
REDIS = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
save ""
"""


class ServiceError(Exception):
    """A server can't be had; the message says why."""


class Owner:
    """Whom the servers and their files belong to: PostgreSQL refuses root."""

    def __init__(self) -> None:
        self.account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    def temporary(self) -> str:
        """Where temporary files go: root's own folder may be closed to whom they belong to."""
        usual = Path(tempfile.gettempdir())
        closed = [path for path in (usual, *usual.parents) if not path.stat().st_mode & S_IXOTH]
        return "/tmp" if self.account and closed else str(usual)  # noqa: S108

    def folder(self, path: Path) -> Path:
        path.mkdir(mode=0o700, exist_ok=True)
        return self._given(path)

    def file(self, path: Path, text: str) -> Path:
        path.write_text(text)
        return self._given(path)

    def start(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        """What it prints is in `folder`/log."""
        user, group = (self.account.pw_uid, self.account.pw_gid) if self.account else (None, None)
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=folder,
                # Nothing of the caller's: PGPORT and the like name the machine's own servers.
                env={"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=user,
                group=group,
                extra_groups=[] if self.account else None,
                # The interrupt key reaches the command, which still needs its servers.
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def _given(self, path: Path) -> Path:
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        return path


_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def program(name: str) -> str | None:
    """Where it is: on the PATH, or the newest that Debian keeps elsewhere."""
    found = shutil.which(name)
    if found:
        return found
    others = Path("/").glob(f"{MORE_FOLDERS}/{name}".lstrip("/"))
    newest = sorted(others, key=lambda path: (len(path.parts[-3]), path.parts[-3]))
    return str(newest[-1]) if newest else None


@contextlib.contextmanager
def postgres(folder: Path, owner: Owner) -> Iterator[str]:
    """The URL of a new server's database."""
    owner.folder(folder)
    password = secrets.token_hex(16)
    secret = owner.file(folder / "password", password)
    data = folder / "data"
    make = [_required("initdb"), "-D", str(data), "--username=gateway", f"--pwfile={secret}"]
    made = owner.start(
        [*make, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"], folder
    )
    try:
        failed = made.wait(START_S)
    finally:
        _stop(made)
    if failed:
        raise ServiceError(f"PostgreSQL's initdb failed:\n{_log(folder)}")
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(POSTGRES)
    status = data / "postmaster.pid"

    def start(port: int) -> subprocess.Popen[bytes]:
        return owner.start([_required("postgres"), "-D", str(data), "-p", str(port)], folder)

    # Not by a connection: another program could have taken the port a moment ago.
    def ready(_: int) -> bool:
        return status.exists() and status.read_text().rstrip().endswith("ready")

    with _serving("PostgreSQL", folder, start, ready) as port:
        yield f"postgresql://gateway:{password}@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def redis(folder: Path, owner: Owner) -> Iterator[str]:
    """The URL of a new server."""
    owner.folder(folder)
    password = secrets.token_hex(16)

    def start(port: int) -> subprocess.Popen[bytes]:
        settings = REDIS.format(port=port, password=password, folder=folder)
        path = owner.file(folder / "redis.conf", settings)
        return owner.start([_required("redis-server"), str(path)], folder)

    # Only ours knows the password.
    def ready(port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(f"AUTH {password}\r\n".encode())
                return connection.recv(16).startswith(b"+OK")
        except OSError:
            return False

    with _serving("Redis", folder, start, ready) as port:
        yield f"redis://:{password}@127.0.0.1:{port}/0"


@contextlib.contextmanager
def _serving(
    name: str,
    folder: Path,
    start: Callable[[int], subprocess.Popen[bytes]],
    ready: Callable[[int], bool],
) -> Iterator[int]:
    """The port on which the server that `start` starts is ready."""
    for _ in range(PORTS_TRIED):
        port = _free_port()
        server = start(port)
        try:
            if _wait_until(server, partial(ready, port)):
                yield port
                return
        finally:
            _stop(server)
    raise ServiceError(f"{name} does not start:\n{_log(folder)}")


def _wait_until(server: subprocess.Popen[bytes], ready: Callable[[], bool]) -> bool:
    """False where the server ends first, or takes too long."""
    give_up = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < give_up:
        if ready():
            return True
        time.sleep(POLL_S)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # PostgreSQL's "fast": doesn't wait for its clients
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _required(name: str) -> str:
    found = program(name)
    if found is None:
        raise ServiceError(f"{name} is not there")
    return found


def _log(folder: Path) -> str:
    return "\n".join((folder / "log").read_text(errors="replace").splitlines()[-20:])
