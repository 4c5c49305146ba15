"""Who may call, what it cost, who changed what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    # Programs that know no revisions look here, and refuse what they don't know.
    op.execute(sa.text("UPDATE schema_version SET version = 2"))
    _keys()
    _ledger()
    _shared_limits()


def _keys() -> None:
    op.create_table(
        "teams",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("settings", sa.LargeBinary, nullable=False),
        sa.Column("deleted", sa.Double),
    )
    op.create_table(
        "virtual_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("last4", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("team_id", sa.Text, sa.ForeignKey("teams.id")),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("revoked", sa.Double),
        sa.Column("settings", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "tenancy_revision",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audit_log",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("object", sa.Text, nullable=False),
        sa.Column("detail", sa.LargeBinary, nullable=False),
    )
    op.create_index("audit_log_by_time", "audit_log", ["at"])


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("request_id", sa.Text, nullable=False, unique=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("team", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("code", sa.Text),
        sa.Column("finish", sa.Text),
        sa.Column("streamed", sa.Boolean, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("queue_s", sa.Double),
        sa.Column("ttft_s", sa.Double),
        sa.Column("total_s", sa.Double, nullable=False),
    )
    op.create_index("ledger_by_time", "ledger", ["at"])
    op.create_index("ledger_by_key", "ledger", ["key_id", "at"])
    op.create_index("ledger_by_team", "ledger", ["team", "at"])


def _shared_limits() -> None:
    op.create_table(
        "shared_limits",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("used", sa.Double, nullable=False),
    )
    op.create_table(
        "shared_leases",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("instance", sa.Text, primary_key=True),
        sa.Column("amount", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
