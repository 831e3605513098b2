"""Runs the ledger's migrations on the connection that `database.py` hands over."""

from __future__ import annotations

from alembic import context

from embed_pipeline.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="ledger_version",
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
