"""Gateways' views of one database of keys and teams, each as a process of its own would have it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from gateway.auth import Authenticator
from gateway.config import AuthConfig
from gateway.errors import AuthenticationError
from gateway.keys import KeyRing, Pepper, Tenancy
from gateway.protocol.parse import Wire, parse
from gateway.store.database import Database
from gateway.tenants import Principal
from tests.store.conftest import SHARED, Clock, clock, url

__all__ = ["SHARED", "Clock", "clock", "url"]

ROOT = "admin:root"
PEPPER = "p" * 32


@dataclass
class Site:
    """One gateway's keys."""

    database: Database
    pepper: Pepper
    ring: KeyRing
    tenancy: Tenancy
    authenticator: Authenticator

    def who(self, secret: str) -> Principal | None:
        """Who comes with the secret; None: it is refused."""
        try:
            return self.authenticator.authenticate(f"Bearer {secret}")
        except AuthenticationError:
            return None


def made(model: type[Wire], **fields: Any) -> Wire:
    """A body with the given fields."""
    return parse(model, msgspec.json.encode(fields))


def site_of(url: str, clock: Clock, refresh_s: float = 60, **auth: Any) -> Site:
    """A gateway that hasn't looked at its keys yet. A server's database needs a pepper of its
    own."""
    if url.startswith("postgresql"):
        auth.setdefault("pepper_env", "PEPPER")
    config = AuthConfig(refresh_s=refresh_s, **auth)
    environ = {"PEPPER": PEPPER}
    database = Database(url)
    pepper = Pepper(config, database, environ)
    ring = KeyRing(database, pepper, refresh_s, clock)
    tenancy = Tenancy(database, pepper, ring, clock)
    return Site(database, pepper, ring, tenancy, Authenticator(config, environ, ring))


OpenSite = Callable[..., Site]


@pytest.fixture
async def open_site(url: str, clock: Clock) -> AsyncIterator[OpenSite]:
    """Open gateways on one database (in memory each has its own); all are closed at the end."""
    async with AsyncExitStack() as stack:

        def open_it(**settings: Any) -> Site:
            site = site_of(url, clock, **settings)
            stack.push_async_callback(site.database.close)
            stack.push_async_callback(site.ring.close)
            return site

        yield open_it


@pytest.fixture
async def site(open_site: OpenSite) -> Site:
    """A gateway that has started."""
    found = open_site()
    await found.ring.start()
    return found
