"""The tables. A change here needs a revision, see `migrations/`.

`body` is an object's JSON as clients get it, passed through unparsed. NULL where the object has
been deleted: its row stays until retention takes it, so that a client that deletes what it lists
can go on from there.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData()


class Name(TypeDecorator[str]):
    """Text that every database takes: PostgreSQL has no NUL, none has half a surrogate pair. Both
    become another character, so a name that holds one is never found."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


# SQLite counts rows up by itself only where the type is exactly INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")

# What programs from before there were revisions look at, so that they refuse a newer database.
schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

# The gateways that use this database; one not seen for a while has died.
instances = Table(
    "instances",
    metadata,
    Column("id", Name, primary_key=True),
    Column("seen_at", Double, nullable=False),
)

chat_completions = Table(
    "chat_completions",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("id", Name, nullable=False, unique=True),
    Column("owner", Name, nullable=False),
    Column("model", Name, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("messages", LargeBinary),
    Column("body", LargeBinary),
    Index("chat_completions_by_owner", "owner", "created", "seq"),
    Index("chat_completions_by_age", "created"),
)

# The metadata once more, to be searched.
chat_completion_metadata = Table(
    "chat_completion_metadata",
    metadata,
    Column(
        "completion_seq", ForeignKey("chat_completions.seq", ondelete="CASCADE"), primary_key=True
    ),
    Column("key", Name, primary_key=True),
    Column("value", Name, nullable=False),
)

responses = Table(
    "responses",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("id", Name, nullable=False, unique=True),
    Column("owner", Name, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("status", Name, nullable=False),
    Column("previous_id", Name),
    # The instance that works on it; NULL once it has ended.
    Column("runner", Name),
    Column("body", LargeBinary, nullable=False),
    Index("responses_by_age", "created"),
)
Index(
    "responses_by_runner",
    responses.c.runner,
    sqlite_where=responses.c.runner.is_not(None),
    postgresql_where=responses.c.runner.is_not(None),
)

response_items = Table(
    "response_items",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("response_seq", ForeignKey("responses.seq", ondelete="CASCADE"), nullable=False),
    Column("id", Name, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("response_seq", "id"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("id", Name, nullable=False, unique=True),
    Column("owner", Name, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

conversation_items = Table(
    "conversation_items",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("conversation_seq", ForeignKey("conversations.seq", ondelete="CASCADE"), nullable=False),
    Column("id", Name, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("body", LargeBinary),
    UniqueConstraint("conversation_seq", "id"),
)
Index(
    "conversation_items_deleted",
    conversation_items.c.created,
    sqlite_where=conversation_items.c.body.is_(None),
    postgresql_where=conversation_items.c.body.is_(None),
)
