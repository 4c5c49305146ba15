"""Run by Alembic: the revisions, in the transaction that `migrate` has begun."""

from __future__ import annotations

from alembic import context

from gateway.store.migrations import REVISION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=REVISION_TABLE)
context.run_migrations()
