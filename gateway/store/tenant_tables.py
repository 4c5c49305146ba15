"""The tables of tenants: who may call, what it cost, who changed what. See `schema.py`.

Times are seconds since the epoch, money is nano-units of currency, `settings` is JSON.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
)

from gateway.store.schema import Name, Sequence, metadata

teams = Table(
    "teams",
    metadata,
    Column("id", Name, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("created", Double, nullable=False),
    Column("settings", LargeBinary, nullable=False),
    Column("deleted", Double),
)

# `hash` is HMAC-SHA256 under the pepper; what is shown of a key are `prefix` and `last4`.
virtual_keys = Table(
    "virtual_keys",
    metadata,
    Column("id", Name, primary_key=True),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("prefix", Name, nullable=False),
    Column("last4", Name, nullable=False),
    Column("name", Name, nullable=False),
    Column("team_id", ForeignKey("teams.id")),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    Column("settings", LargeBinary, nullable=False),
)

# One row, counted up with every change of the two above, so that others need to read only that.
tenancy_revision = Table(
    "tenancy_revision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

# Which keys and teams there are is never told by an error, so what was done stays readable here.
audit_log = Table(
    "audit_log",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("at", Double, nullable=False),
    Column("actor", Name, nullable=False),
    Column("action", Name, nullable=False),
    Column("object", Name, nullable=False),
    Column("detail", LargeBinary, nullable=False),
    Index("audit_log_by_time", "at"),
)

# One row a request. Tokens are what the engine read and produced, whoever received them.
ledger = Table(
    "ledger",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("request_id", Name, nullable=False, unique=True),
    Column("at", Double, nullable=False),
    Column("key_id", Name),
    Column("caller", Name, nullable=False),
    Column("team", Name),
    Column("model", Name),
    Column("endpoint", Name, nullable=False),
    Column("outcome", Name, nullable=False),
    Column("status", Integer, nullable=False),
    Column("code", Name),
    Column("finish", Name),
    Column("streamed", Boolean, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("queue_s", Double),
    Column("ttft_s", Double),
    Column("total_s", Double, nullable=False),
    Index("ledger_by_time", "at"),
    Index("ledger_by_key", "key_id", "at"),
    Index("ledger_by_team", "team", "at"),
)

# What several gateways share of an account's limits. `kind` is 'rpm', 'tpm', 'concurrent' or a
# budget's 'tokens:month'; `since` is when its window began, or when its bucket was last filled.
shared_limits = Table(
    "shared_limits",
    metadata,
    Column("account", Name, primary_key=True),
    Column("kind", Name, primary_key=True),
    Column("since", Double, nullable=False),
    Column("used", Double, nullable=False),
)

# What each gateway holds of those, so that what a dead one held comes back.
shared_leases = Table(
    "shared_leases",
    metadata,
    Column("account", Name, primary_key=True),
    Column("kind", Name, primary_key=True),
    Column("instance", Name, primary_key=True),
    Column("amount", Double, nullable=False),
    Column("until", Double, nullable=False),
)
