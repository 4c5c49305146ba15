"""Who may call, how much of the engine each gets, and what is written down of it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from engine.config import Frozen
from gateway.config.state import at_home


class ApiKeyConfig(Frozen):
    """One accepted key: `env` names a variable that holds it, or `sha256` is its hex digest."""

    name: str = Field(min_length=1, max_length=64)
    env: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one_source(self) -> ApiKeyConfig:
        if (self.env is None) == (self.sha256 is None):
            raise ValueError("give exactly one of 'env' (a variable's name) and 'sha256'")
        return self


class AuthConfig(Frozen):
    """Who may call. Without any key, here or made with `gateway keys create`, every caller is
    `anonymous`, and only this machine may connect."""

    api_keys: tuple[ApiKeyConfig, ...] = ()
    admin_keys: tuple[ApiKeyConfig, ...] = Field(
        (), description="for /admin/…, which doesn't exist without; they open nothing else"
    )
    pepper_env: str | None = Field(
        None,
        min_length=1,
        description="a variable that holds the secret keys are hashed with, of at least 32 "
        "characters; default: a file beside the state database, made at the first key",
    )
    refresh_s: float = Field(
        0.5, gt=0, le=60, description="how soon a change of a key acts in every process"
    )


class AdmissionConfig(Frozen):
    """How much work is taken at once, and in which order it reaches the engine."""

    max_requests: int = Field(
        1024,
        ge=1,
        description="requests in the gateway at once; more get 429 with retry-after",
    )
    max_queued: int = Field(
        512, ge=0, description="requests that may wait for one engine; more get 429"
    )
    max_queued_tokens: int = Field(
        4_000_000, ge=1, description="prompt tokens that may wait for one engine"
    )
    max_queued_per_tenant: int = Field(
        256, ge=0, description="requests of one tenant that may wait for one engine"
    )
    max_queued_tokens_per_tenant: int = Field(
        2_000_000, ge=1, description="prompt tokens of one tenant that may wait for one engine"
    )
    max_running_per_tenant: int | None = Field(
        None, ge=1, description="sequences of one tenant in one engine; None: as many as it takes"
    )
    margin: float = Field(
        0.03,
        ge=0,
        le=4,
        description="sequences beyond engine.max_num_seqs, as a share of it, that are inside of "
        "the engine so that it never idles; more wait here, where the order is fair",
    )
    kv_ceiling: float = Field(
        0.95, gt=0, le=1, description="nothing is started while more of the KV cache is in use"
    )
    max_ttft_s: float | None = Field(
        None,
        gt=0,
        description="refuse what is predicted to wait longer for its first token; None: nothing",
    )
    timeout_s: float | None = Field(
        None,
        gt=0,
        description="a request may take so long, where its x-request-timeout doesn't say less",
    )
    stall_timeout_s: float = Field(
        120.0, gt=0, description="a request that gains no token for so long is ended"
    )


def _shared_through(given: str) -> str:
    """Raises ValueError, which tells nothing of what was given: it may hold a password."""
    try:
        # Without the slashes the client would take the host for a database, and go to localhost.
        known = given.startswith(("redis://", "rediss://", "unix://")) and urlsplit(given).port != 0
    except ValueError:
        known = False
    if known or given == "state":
        return given
    raise ValueError(
        "expected 'state' or redis://HOST:PORT/DB; in a password characters such as @ : / have to "
        "be percent-encoded, e.g. %40 for @"
    )


class LimitsConfig(Frozen):
    """Limits of keys and teams when several gateways serve them."""

    share: Annotated[str, AfterValidator(_shared_through)] | None = Field(
        None,
        min_length=1,
        description="None: each gateway keeps limits of its own; 'state': shared through the state "
        "database; redis://HOST:PORT/DB: through Redis",
    )
    slice: float = Field(
        0.05,
        gt=0,
        le=1,
        description="all gateways together hold at most this share of a shared limit ahead; when "
        "some die, what they admitted is over the limit by no more than that",
    )
    lease_s: float = Field(
        5.0, gt=0, le=60, description="an unused slice is given back after so long"
    )


class LedgerConfig(Frozen):
    """What is written down of every request."""

    retention_days: float = Field(
        400.0, gt=0, le=36_500, description="rows are deleted after so long"
    )
    journal: Annotated[str, AfterValidator(at_home)] | None = Field(
        None,
        min_length=1,
        description="a directory for rows on their way to the database; default: beside a SQLite "
        "database, else gateway/journal below $XDG_STATE_HOME",
    )
