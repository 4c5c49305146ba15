"""The servers that some tests need, where the environment names them; `make test-services` and CI
start them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import NullPool, create_engine, make_url, text


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of an empty PostgreSQL schema of the test's own."""
    name = f"test_{secrets.token_hex(6)}"
    url = make_url(_server("PostgreSQL", "GATEWAY_TEST_POSTGRES"))
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    inside = {"options": f"-csearch_path={name}", "application_name": name}
    yield url.update_query_dict(inside).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = '20s'"))  # a test may have left a transaction
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))


@pytest.fixture
def redis_url() -> str:
    """The URL of an empty Redis database."""
    url = _server("Redis", "GATEWAY_TEST_REDIS")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def _server(name: str, variable: str) -> str:
    url = os.environ.get(variable)
    if url:
        return url
    if os.environ.get("GATEWAY_TEST_REQUIRE_SERVICES"):
        pytest.fail(f"{variable} must name a {name} server here")
    pytest.skip(f"no {name}: run `make test-services`, or name a server in {variable}")
