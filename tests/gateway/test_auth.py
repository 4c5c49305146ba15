"""Who may call: API keys from the configuration and virtual ones, and without any only this
machine."""

from __future__ import annotations

import hashlib

import pytest

from gateway.auth import (
    ANONYMOUS,
    Authenticator,
    Principal,
    require_keys_beyond_loopback,
    say_who_may_call,
)
from gateway.config import ApiKeyConfig, AuthConfig, ConfigError
from gateway.keys import KeyRing, Pepper, Tenancy
from gateway.protocol.tenancy import CreateKey
from gateway.store.database import Database
from tests.gateway.conftest import StartGateway

KEY = "k" * 32
KEYS = [{"name": "alice", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]


async def test_without_a_right_key_every_api_route_is_a_401(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"auth.api_keys": KEYS})
    for method, path in [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/x"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/version"),
    ]:
        for header in (None, "Bearer wrong", KEY, f"Basic {KEY}", "Bearer ", "Bearer é"):
            headers = {"authorization": header} if header else {}
            async with gateway.http.request(method, gateway.url + path, headers=headers) as answer:
                assert answer.status == 401, (method, path, header)
                assert answer.headers["www-authenticate"] == "Bearer"
                error = (await answer.json())["error"]
                assert error["code"] == "invalid_api_key"
                assert KEY not in error["message"]


async def test_with_the_key_the_routes_answer_and_probes_need_none(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"auth.api_keys": KEYS})
    headers = {"authorization": f"Bearer {KEY}"}
    async with gateway.http.get(gateway.url + "/v1/models", headers=headers) as answer:
        assert answer.status == 200
    for path in ("/health", "/healthz", "/readyz", "/metrics"):
        async with gateway.http.get(gateway.url + path) as answer:
            assert answer.status == 200


def test_a_key_can_come_from_an_environment_variable() -> None:
    config = AuthConfig(api_keys=(ApiKeyConfig(name="bob", env="BOBS_KEY"),))
    authenticator = Authenticator(config, {"BOBS_KEY": KEY})
    assert authenticator.authenticate(f"Bearer {KEY}").name == "bob"


@pytest.mark.parametrize("environ", [{}, {"BOBS_KEY": "short"}])
def test_a_missing_or_short_key_stops_the_start(environ: dict[str, str]) -> None:
    config = AuthConfig(api_keys=(ApiKeyConfig(name="bob", env="BOBS_KEY"),))
    with pytest.raises(ConfigError, match="BOBS_KEY must hold a key"):
        Authenticator(config, environ)


def test_the_key_itself_is_not_kept() -> None:
    config = AuthConfig(api_keys=(ApiKeyConfig(name="bob", env="BOBS_KEY"),))
    authenticator = Authenticator(config, {"BOBS_KEY": KEY})
    assert KEY not in repr(vars(authenticator))


OPEN = Authenticator(AuthConfig())
CLOSED = Authenticator(AuthConfig(api_keys=(ApiKeyConfig(name="a", sha256="0" * 64),)))
LOOPBACK = ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"]
REACHABLE = [
    "0.0.0.0",
    "::",
    "",
    "192.168.0.7",
    "10.0.0.1",
    "gateway.example.com",
    "::ffff:1.2.3.4",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_without_keys_this_machine_may_call(host: str) -> None:
    require_keys_beyond_loopback(host, OPEN)


@pytest.mark.parametrize("host", REACHABLE)
def test_without_keys_no_other_machine_may_call(host: str) -> None:
    with pytest.raises(ConfigError, match="`gateway keys create`"):
        require_keys_beyond_loopback(host, OPEN)


@pytest.mark.parametrize("host", LOOPBACK + REACHABLE)
def test_with_keys_every_machine_may_try(host: str) -> None:
    require_keys_beyond_loopback(host, CLOSED)


def test_the_log_says_that_a_gateway_is_open_and_nothing_where_it_isnt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    say_who_may_call(CLOSED)
    assert caplog.messages == []
    say_who_may_call(OPEN)
    assert "open to every program on this machine" in caplog.text


async def test_configured_and_virtual_keys_are_accepted_beside_each_other() -> None:
    database = Database("sqlite://")
    pepper = Pepper(AuthConfig(), database)
    ring = KeyRing(database, pepper, refresh_s=60)
    await ring.start()
    config = AuthConfig(api_keys=(ApiKeyConfig(name="alice", sha256=KEYS[0]["sha256"]),))
    authenticator = Authenticator(config, ring=ring)
    _, secret = await Tenancy(database, pepper, ring).create_key("cli:ann", CreateKey(name="bob"))
    configured = authenticator.authenticate(f"Bearer {KEY}")
    assert configured == Principal(name="alice", owner="alice")
    for found in (
        authenticator.authenticate(f"bearer {secret}"),
        authenticator.authenticate(None, secret),
    ):
        assert (found.name, found.owner) == ("bob", found.key_id)
    assert Authenticator(AuthConfig()).authenticate(f"Bearer {secret}") is ANONYMOUS
    await ring.close()
    await database.close()


def test_a_configured_key_may_look_like_a_virtual_one() -> None:
    key = "sk-gw-" + "k" * 43
    config = AuthConfig(api_keys=(ApiKeyConfig(name="bob", env="BOBS_KEY"),))
    assert Authenticator(config, {"BOBS_KEY": key}).authenticate(f"Bearer {key}").name == "bob"
