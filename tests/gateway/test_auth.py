"""API keys from the configuration."""

from __future__ import annotations

import hashlib

import pytest

from gateway.auth import Authenticator
from gateway.config import ApiKeyConfig, AuthConfig, ConfigError
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
    for path in ("/healthz", "/readyz", "/metrics"):
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
