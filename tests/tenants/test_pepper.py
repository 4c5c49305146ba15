"""The secret that keys are hashed with: where it comes from, and what becomes of it."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.config import AuthConfig, ConfigError
from gateway.keys import Pepper
from gateway.store.database import Database

FROM_ENVIRONMENT = AuthConfig(pepper_env="PEPPER")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    found = Database(f"sqlite:///{tmp_path}/state.db")
    yield found
    await found.close()


def test_it_is_made_once_and_readable_by_its_owner_alone(
    database: Database, tmp_path: Path
) -> None:
    pepper = Pepper(AuthConfig(), database)
    assert pepper.find() is None
    made = pepper.make()
    file = tmp_path / "state.db.pepper"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text().strip()) == 64
    for again in (pepper.make(), Pepper(AuthConfig(), database).find()):
        assert again is not None
        assert again.fingerprint == made.fingerprint
    assert sorted(path.name for path in tmp_path.glob("*pepper*")) == ["state.db.pepper"]


def test_programs_that_make_it_at_once_get_the_same(database: Database) -> None:
    with ThreadPoolExecutor(16) as programs:
        made = list(programs.map(lambda _: Pepper(AuthConfig(), database).make(), range(64)))
    assert len({seal.fingerprint for seal in made}) == 1


def test_it_can_come_from_the_environment_and_then_no_file_is_made(
    database: Database, tmp_path: Path
) -> None:
    found = Pepper(FROM_ENVIRONMENT, database, {"PEPPER": "a" * 32}).make()
    other = Pepper(FROM_ENVIRONMENT, database, {"PEPPER": "b" * 32}).make()
    assert found.fingerprint != other.fingerprint
    assert found(b"secret") != other(b"secret")
    assert not list(tmp_path.glob("*pepper*"))


def test_what_the_file_holds_can_move_into_the_environment(
    database: Database, tmp_path: Path
) -> None:
    made = Pepper(AuthConfig(), database).make()
    text = (tmp_path / "state.db.pepper").read_text()
    moved = Pepper(FROM_ENVIRONMENT, database, {"PEPPER": text}).make()
    assert moved(b"secret") == made(b"secret")


@pytest.mark.parametrize("environ", [{}, {"PEPPER": "short"}, {"PEPPER": " " * 40}])
def test_a_variable_that_holds_none_is_told_by_name(
    database: Database, environ: dict[str, str]
) -> None:
    with pytest.raises(
        ConfigError, match=r"variable PEPPER \(auth\.pepper_env\) must hold at least 32"
    ):
        Pepper(FROM_ENVIRONMENT, database, environ).find()


def test_a_file_that_cant_be_read_is_told_by_name(database: Database, tmp_path: Path) -> None:
    (tmp_path / "state.db.pepper").mkdir()
    with pytest.raises(ConfigError, match=r"can't read .*state\.db\.pepper"):
        Pepper(AuthConfig(), database).find()


def test_a_file_that_was_emptied_is_told_by_name(database: Database, tmp_path: Path) -> None:
    (tmp_path / "state.db.pepper").write_text("")
    with pytest.raises(ConfigError, match=r"state\.db\.pepper must hold at least 32"):
        Pepper(AuthConfig(), database).find()


async def test_state_in_memory_has_one_in_memory() -> None:
    database = Database("sqlite://")
    pepper = Pepper(AuthConfig(), database)
    found = pepper.find()
    assert found is not None
    assert found.fingerprint == pepper.make().fingerprint
    await database.close()


async def test_a_servers_database_wants_one_that_every_gateway_has(postgres_url: str) -> None:
    database = Database(postgres_url)
    pepper = Pepper(AuthConfig(), database)
    assert pepper.find() is None
    with pytest.raises(ConfigError, match=r"auth\.pepper_env: .* every gateway has"):
        pepper.make()
    await database.close()
