"""Stored completions, responses and conversations: what was schema version 1."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    version = op.create_table("schema_version", sa.Column("version", sa.Integer, nullable=False))
    op.execute(version.insert().values(version=1))
    op.create_table(
        "instances",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("seen_at", sa.Double, nullable=False),
    )
    _chat_completions()
    _responses()
    _conversations()


def _chat_completions() -> None:
    op.create_table(
        "chat_completions",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("messages", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary),
    )
    op.create_index("chat_completions_by_owner", "chat_completions", ["owner", "created", "seq"])
    op.create_index("chat_completions_by_age", "chat_completions", ["created"])
    op.create_table(
        "chat_completion_metadata",
        sa.Column(
            "completion_seq",
            SEQUENCE,
            sa.ForeignKey("chat_completions.seq", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def _responses() -> None:
    op.create_table(
        "responses",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("previous_id", sa.Text),
        sa.Column("runner", sa.Text),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("responses_by_age", "responses", ["created"])
    _partial_index("responses_by_runner", "responses", "runner", "runner IS NOT NULL")
    op.create_table(
        "response_items",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column(
            "response_seq",
            SEQUENCE,
            sa.ForeignKey("responses.seq", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("response_seq", "id"),
    )


def _conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "conversation_items",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column(
            "conversation_seq",
            SEQUENCE,
            sa.ForeignKey("conversations.seq", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.UniqueConstraint("conversation_seq", "id"),
    )
    _partial_index("conversation_items_deleted", "conversation_items", "created", "body IS NULL")


def _partial_index(name: str, table: str, column: str, where: str) -> None:
    op.create_index(
        name, table, [column], sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
