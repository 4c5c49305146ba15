"""What a key looks like, and what is kept of it."""

from __future__ import annotations

import hashlib
import hmac
import secrets

PREFIX = "sk-gw-"
RANDOM_BYTES = 32


def new_secret() -> str:
    """A key to be told once: `sk-gw-` and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def redacted(prefix: str, last4: str) -> str:
    """How a key is shown ever after."""
    return f"{prefix}…{last4}"


class Seal:
    """Hashes secrets under a pepper, with HMAC-SHA256."""

    def __init__(self, pepper: bytes) -> None:
        self._keyed = hmac.new(pepper, digestmod=hashlib.sha256)
        self.fingerprint = self(b"fingerprint").hex()[:8]
        """Tells peppers apart, and tells nothing of them."""

    def __call__(self, secret: bytes) -> bytes:
        keyed = self._keyed.copy()  # half the cost of keying it anew
        keyed.update(secret)
        return keyed.digest()
