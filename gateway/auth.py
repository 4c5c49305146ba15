"""From a bearer token to a `Principal`.

Configured keys live here only as HMAC-SHA256 under a secret drawn at start, and every one is
compared in constant time, so neither memory nor timing gives one away. Virtual keys are the key
ring's.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Mapping
from ipaddress import ip_address

from gateway.config import ApiKeyConfig, AuthConfig, ConfigError
from gateway.errors import AuthenticationError
from gateway.keys import KeyRing
from gateway.tenants import ANONYMOUS, Principal

__all__ = [
    "ANONYMOUS",
    "Authenticator",
    "Principal",
    "is_loopback",
    "require_keys_beyond_loopback",
    "say_who_may_call",
]

logger = logging.getLogger(__name__)

MIN_KEY_CHARACTERS = 24


class Authenticator:
    """Knows the configured keys, and those of the `ring`. Raises ConfigError for a configured one
    that is missing or too short."""

    def __init__(
        self,
        config: AuthConfig,
        environ: Mapping[str, str] | None = None,
        ring: KeyRing | None = None,
    ) -> None:
        self._secret = secrets.token_bytes(32)
        env = os.environ if environ is None else environ
        self._keys = [
            (self._seal(_digest(key, env)), Principal(name=key.name, owner=key.name))
            for key in config.api_keys
        ]
        self._ring = ring

    @property
    def required(self) -> bool:
        """False where no key is configured and none was ever made: everyone is anonymous then."""
        return bool(self._keys) or (self._ring is not None and self._ring.required)

    def authenticate(self, authorization: str | None, api_key: str | None = None) -> Principal:
        """Read an `Authorization` header or, without one, an `x-api-key` header. Raises
        AuthenticationError (401)."""
        if not self.required:
            return ANONYMOUS
        if not authorization and api_key:
            authorization = f"Bearer {api_key}"
        if not authorization:
            raise AuthenticationError(
                "You didn't provide an API key. Provide it in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise AuthenticationError("Expected an Authorization header of the form 'Bearer KEY'.")
        token = token.strip()
        found = self._ring.find(token) if self._ring is not None else None
        if found is None and self._keys:
            found = self._configured(token)
        if found is None:
            raise AuthenticationError("Incorrect API key provided.")
        return found

    def _configured(self, token: str) -> Principal | None:
        sealed = self._seal(hashlib.sha256(token.encode()).digest())
        found = None
        for key, principal in self._keys:
            if hmac.compare_digest(key, sealed):
                found = principal
        return found

    def _seal(self, digest: bytes) -> bytes:
        return hmac.digest(self._secret, digest, "sha256")


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_keys_beyond_loopback(host: str, authenticator: Authenticator) -> None:
    """Raises ConfigError where other machines could connect to `host` and needed no key."""
    if not authenticator.required and not is_loopback(host):
        raise ConfigError(
            f"server.host: other machines can reach {host or 'every address'}, and no API key is "
            "asked for: make one with `gateway keys create`, or configure auth.api_keys; or "
            "listen on 127.0.0.1"
        )


def say_who_may_call(authenticator: Authenticator) -> None:
    """A line in the log where the gateway is open."""
    if not authenticator.required:
        logger.warning(
            "open to every program on this machine: no API key is asked for; make one with "
            "`gateway keys create`"
        )


def _digest(key: ApiKeyConfig, environ: Mapping[str, str]) -> bytes:
    if key.sha256 is not None:
        return bytes.fromhex(key.sha256)
    value = environ.get(key.env or "", "").strip()
    if len(value) < MIN_KEY_CHARACTERS:
        raise ConfigError(
            f"auth: key '{key.name}': environment variable {key.env} must hold a key of "
            f"at least {MIN_KEY_CHARACTERS} characters; make one with `openssl rand -hex 32`"
        )
    return hashlib.sha256(value.encode()).digest()
