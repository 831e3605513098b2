"""Media files, tasks, the outbox, and the pipelines they belong to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_name = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "media",
        sa.Column("pipeline", _name, nullable=False),
        sa.Column("key", _name, nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("media_type", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("token", _name, nullable=True),
        sa.Column("fingerprint", _name, nullable=False),
        sa.Column("duration_sec", sa.Double(), nullable=True),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("gone_at", sa.Double(), nullable=True),
        sa.Column("task_id", _name, nullable=True),
        sa.Column("embedded_fingerprint", _name, nullable=True),
        sa.Column("embedded_digest", _name, nullable=True),
        sa.Column("embedded_platform", _name, nullable=True),
        sa.Column("embedded_task_id", _name, nullable=True),
        sa.Column("segments", sa.Integer(), nullable=True),
        sa.Column("space", sa.String(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("written_at", sa.Double(), nullable=True),
        sa.Column("problems", sa.Text(), nullable=True),
        sa.Column("deferred_reason", sa.Text(), nullable=True),
        sa.Column("deferred_since", sa.Double(), nullable=True),
        sa.Column("deferred_until", sa.Double(), nullable=True),
        sa.Column("requests", sa.Integer(), server_default="0", nullable=False),
        sa.Column("interruptions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("run_id", _name, nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "key", name=op.f("pk_media")),
    )
    op.create_index(op.f("ix_media_embedded_task_id"), "media", ["embedded_task_id"], unique=False)
    op.create_index(
        "ix_media_leased",
        "media",
        ["run_id"],
        unique=False,
        sqlite_where=sa.text("run_id IS NOT NULL"),
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    op.create_index(
        "ix_media_pending",
        "media",
        ["pipeline", "task_id"],
        unique=False,
        sqlite_where=sa.text("task_id IS NOT NULL AND (embedded_task_id IS NULL OR embedded_task_id != task_id)"),
        postgresql_where=sa.text("task_id IS NOT NULL AND (embedded_task_id IS NULL OR embedded_task_id != task_id)"),
    )
    op.create_index(op.f("ix_media_pipeline_fingerprint"), "media", ["pipeline", "fingerprint"], unique=False)
    op.create_index(op.f("ix_media_pipeline_updated_at"), "media", ["pipeline", "updated_at"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("id", _id, autoincrement=True, nullable=False),
        sa.Column("pipeline", _name, nullable=False),
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("key", _name, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("run_id", _name, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_outbox_pipeline_id"), "outbox", ["pipeline", "id"], unique=False)
    op.create_index(
        "ix_outbox_of_run",
        "outbox",
        ["pipeline", "key"],
        unique=False,
        sqlite_where=sa.text("run_id IS NOT NULL"),
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    op.create_table(
        "pipeline",
        sa.Column("name", _name, nullable=False),
        sa.Column("imported_at", sa.Double(), nullable=True),
        sa.Column("table_requested_at", sa.Double(), nullable=True),
        sa.Column("table_built_at", sa.Double(), nullable=True),
        sa.Column("left_out", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pipeline")),
    )
    op.create_table(
        "run",
        sa.Column("run_id", _name, nullable=False),
        sa.Column("pipeline", _name, nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run")),
    )
    op.create_index(op.f("ix_run_pipeline"), "run", ["pipeline"], unique=False)
    op.create_table(
        "task",
        sa.Column("id", _id, autoincrement=True, nullable=False),
        sa.Column("fingerprint", _name, nullable=False),
        sa.Column("settings_digest", _name, nullable=False),
        sa.Column("platform", _name, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("is_latest", sa.Boolean(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("state", _name, nullable=False),
        sa.Column("pipeline", _name, nullable=False),
        sa.Column("key", _name, nullable=False),
        sa.Column("run_id", _name, nullable=False),
        sa.Column("owner", _name, nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("sent_at", sa.Double(), nullable=True),
        sa.Column("in_doubt_until", sa.Double(), nullable=True),
        sa.Column("source_url", sa.String(), nullable=True),
        sa.Column("source_filename", sa.String(), nullable=True),
        sa.Column("asset_id", _name, nullable=True),
        sa.Column("media_type", sa.String(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("config_digest", _name, nullable=False),
        sa.Column("minutes", sa.Double(), nullable=True),
        sa.Column("task_id", _name, nullable=True),
        sa.Column("origin", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=True),
        sa.Column("ready_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("retry_at", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sa.UniqueConstraint("fingerprint", "settings_digest", "platform", "attempt", name="uq_task_attempt"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_task_pipeline_claimed_at"), "task", ["pipeline", "claimed_at"], unique=False)
    op.create_index(op.f("ix_task_run_id"), "task", ["run_id"], unique=False)
    op.create_index(op.f("ix_task_state"), "task", ["state"], unique=False)
    op.create_index("uq_task_task_id", "task", ["task_id", "platform"], unique=True)
    op.create_index(
        "uq_task_latest",
        "task",
        ["fingerprint", "settings_digest", "platform"],
        unique=True,
        sqlite_where=sa.text("is_latest"),
        postgresql_where=sa.text("is_latest"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("outbox", "task", "run", "media", "pipeline"):
        op.drop_table(table)
