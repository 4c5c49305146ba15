"""The secret that keys are hashed with: who steals the database alone can't try out guesses.

It is in the environment (`auth.pepper_env`), or else beside a SQLite database in a file of its own,
made with the first key. State in memory has one in memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from gateway.config import AuthConfig, ConfigError
from gateway.keys.secret import Seal
from gateway.store.database import Database

MIN_CHARACTERS = 32


class Pepper:
    """Where the pepper is, or will be."""

    def __init__(
        self, config: AuthConfig, database: Database, environ: Mapping[str, str] | None = None
    ) -> None:
        self._variable = config.pepper_env
        self._environ = os.environ if environ is None else environ
        self._file = None if database.path is None else Path(f"{database.path}.pepper")
        self._in_memory = secrets.token_hex(32) if database.in_memory else None

    def find(self) -> Seal | None:
        """None where none was made yet. Raises ConfigError where it can't be read, or is set to
        what can't be one."""
        if self._variable is not None:
            return self._from_environment(self._variable)
        if self._in_memory is not None:
            return Seal(self._in_memory.encode())
        if self._file is None:
            return None
        try:
            return self._seal(self._file.read_text("ascii"), str(self._file))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the keys' pepper: can't read {self._file}: {error}") from None

    def make(self) -> Seal:
        """The pepper, made now where there is none: for the first key, since one made later
        recognises none that was made before. Raises ConfigError like `require`."""
        if (found := self.find()) is not None:
            return found
        if self._file is not None:
            try:
                _create(self._file, secrets.token_hex(32) + "\n")
            except OSError as error:
                raise ConfigError(f"the keys' pepper: can't write {self._file}: {error}") from None
        return self.require()

    def require(self) -> Seal:
        """The pepper. Raises ConfigError, which says how to give one."""
        if (found := self.find()) is not None:
            return found
        if self._file is None:
            raise ConfigError(
                "auth.pepper_env: keys in a shared database need a pepper that every gateway has: "
                "set auth.pepper_env to the name of an environment variable that holds one, made "
                "with `openssl rand -hex 32`"
            )
        raise ConfigError(
            f"auth: there are keys, but the pepper they were hashed with is gone: put "
            f"{self._file} back, or name a variable that holds it in auth.pepper_env; if it is "
            "lost for good, write there what `openssl rand -hex 32` prints and rotate every key"
        )

    def _from_environment(self, name: str) -> Seal:
        where = f"environment variable {name} (auth.pepper_env)"
        return self._seal(self._environ.get(name, ""), where)

    def _seal(self, text: str, where: str) -> Seal:
        if len(text.strip()) < MIN_CHARACTERS:
            raise ConfigError(
                f"the keys' pepper: {where} must hold at least {MIN_CHARACTERS} characters, made "
                "with `openssl rand -hex 32`, and for good: without them no key is recognised"
            )
        return Seal(text.strip().encode())


def _create(path: Path, text: str) -> None:
    """Write a file that nobody else can read, whole or not at all; one that is there stays. Two
    programs may make their first key at once."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, text.encode())
        os.fsync(file)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.close(file)
        draft.unlink()
    # A key must not outlive a power cut that its pepper doesn't.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
