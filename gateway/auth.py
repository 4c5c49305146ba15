"""From a bearer token to a `Principal`.

Keys live here only as HMAC-SHA256 under a pepper drawn at start, and every configured key is
compared in constant time, so neither memory nor timing gives one away.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config import ApiKeyConfig, AuthConfig, ConfigError
from gateway.errors import AuthenticationError

MIN_KEY_CHARACTERS = 24


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling; `name` is safe to log."""

    name: str


ANONYMOUS = Principal("anonymous")


class Authenticator:
    """Knows the configured keys. Raises ConfigError for one that is missing or too short."""

    def __init__(self, config: AuthConfig, environ: Mapping[str, str] | None = None) -> None:
        self._pepper = secrets.token_bytes(32)
        env = os.environ if environ is None else environ
        self._keys = [
            (self._seal(_digest(key, env)), Principal(key.name)) for key in config.api_keys
        ]

    @property
    def required(self) -> bool:
        """False where no key is configured and everyone is anonymous."""
        return bool(self._keys)

    def authenticate(self, authorization: str | None, api_key: str | None = None) -> Principal:
        """Read an `Authorization` header or, without one, an `x-api-key` header. Raises
        AuthenticationError (401)."""
        if not self._keys:
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
        sealed = self._seal(hashlib.sha256(token.strip().encode()).digest())
        found = None
        for key, principal in self._keys:
            if hmac.compare_digest(key, sealed):
                found = principal
        if found is None:
            raise AuthenticationError("Incorrect API key provided.")
        return found

    def _seal(self, digest: bytes) -> bytes:
        return hmac.digest(self._pepper, digest, "sha256")


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
