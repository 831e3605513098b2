"""Tables of the ledger, for SQLite and PostgreSQL.

Times are seconds since 1970 by the database's clock. Texts never hold credentials.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"},
)


class Words(sa.types.TypeDecorator[str]):
    """Text from elsewhere, without the characters that PostgreSQL or UTF-8 cannot hold."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002
        """Return the text as it is stored."""
        return None if value is None else value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


# Bytes in the order of their code points, as SQLite and Python have it; it is the fastest one, too.
_name: sa.types.TypeEngine[str] = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_id: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_double: sa.types.TypeEngine[float] = sa.Double()

pipeline = sa.Table(
    "pipeline",
    metadata,
    sa.Column("name", _name, primary_key=True),
    sa.Column("imported_at", _double),
    sa.Column("table_requested_at", _double),
    sa.Column("table_built_at", _double),
    # What the media library held besides media files when it was last listed, in words.
    sa.Column("left_out", sa.Text),
)

# Runs that work, so that one whose process died is told from one that lives.
run = sa.Table(
    "run",
    metadata,
    sa.Column("run_id", _name, primary_key=True),
    sa.Column("pipeline", _name, nullable=False),
    sa.Column("lease_until", _double, nullable=False),
)
sa.Index(None, run.c.pipeline)

media = sa.Table(
    "media",
    metadata,
    sa.Column("pipeline", _name, primary_key=True),
    sa.Column("key", _name, primary_key=True),
    # What the media library says.
    sa.Column("uri", sa.String, nullable=False),
    sa.Column("media_type", sa.String, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("token", _name),
    sa.Column("fingerprint", _name, nullable=False),
    sa.Column("duration_sec", _double),
    sa.Column("changed_at", _double, nullable=False),
    sa.Column("gone_at", _double),
    # The task that serves the present content, as far as it was reported.
    sa.Column("task_id", _name),
    # The segments that the dataset holds.
    sa.Column("embedded_fingerprint", _name),
    sa.Column("embedded_digest", _name),
    sa.Column("embedded_platform", _name),
    sa.Column("embedded_task_id", _name),
    sa.Column("segments", sa.Integer),
    sa.Column("space", sa.String),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("written_at", _double),
    sa.Column("problems", Words),
    # What it waits for, and which run works on it.
    sa.Column("deferred_reason", Words),
    sa.Column("deferred_since", _double),
    sa.Column("deferred_until", _double),
    sa.Column("requests", sa.Integer, nullable=False, server_default="0"),
    sa.Column("interruptions", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("run_id", _name),
    sa.Column("lease_until", _double),
    sa.Column("updated_at", _double, nullable=False),
)
sa.Index(None, media.c.pipeline, media.c.fingerprint)
sa.Index(None, media.c.embedded_task_id)
sa.Index(None, media.c.pipeline, media.c.updated_at)
_leased = sa.text("run_id IS NOT NULL")
sa.Index("ix_media_leased", media.c.run_id, sqlite_where=_leased, postgresql_where=_leased)
# The condition of `states.is_pending`, which finds its rows by this index.
_pending = sa.text("task_id IS NOT NULL AND (embedded_task_id IS NULL OR embedded_task_id != task_id)")
sa.Index("ix_media_pending", media.c.pipeline, media.c.task_id, sqlite_where=_pending, postgresql_where=_pending)

task = sa.Table(
    "task",
    metadata,
    sa.Column("id", _id, primary_key=True, autoincrement=True),
    # The identity: one row for each attempt on one content with one set of settings on one platform.
    sa.Column("fingerprint", _name, nullable=False),
    sa.Column("settings_digest", _name, nullable=False),
    sa.Column("platform", _name, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("is_latest", sa.Boolean, nullable=False),
    # Attempts since a person last asked for one: what `max_attempts` counts.
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("state", _name, nullable=False),
    # The claim.
    sa.Column("pipeline", _name, nullable=False),
    sa.Column("key", _name, nullable=False),
    sa.Column("run_id", _name, nullable=False),
    sa.Column("owner", _name, nullable=False),
    # Counts the holders of the claim: what an earlier one does late does not match any more.
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("claimed_at", _double, nullable=False),
    sa.Column("lease_until", _double, nullable=False),
    sa.Column("sent_at", _double),
    sa.Column("in_doubt_until", _double),
    # How the content reaches the platform, by which its task is found in the platform's list.
    sa.Column("source_url", sa.String),
    sa.Column("source_filename", sa.String),
    sa.Column("asset_id", _name),
    # What was asked for.
    sa.Column("media_type", sa.String, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("config_digest", _name, nullable=False),
    sa.Column("minutes", _double),
    # What became of it.
    sa.Column("task_id", _name),
    sa.Column("origin", sa.String),
    sa.Column("created_at", _double),
    sa.Column("ready_at", _double),
    sa.Column("ended_at", _double),
    sa.Column("expires_at", _double),
    sa.Column("retry_at", _double),
    sa.Column("error", Words),
    sa.UniqueConstraint("fingerprint", "settings_digest", "platform", "attempt", name="uq_task_attempt"),
    # A released claim's number must not come back: a late answer would find the claim of another content.
    sqlite_autoincrement=True,
)
_latest = sa.text("is_latest")
sa.Index(
    "uq_task_latest",
    task.c.fingerprint,
    task.c.settings_digest,
    task.c.platform,
    unique=True,
    sqlite_where=_latest,
    postgresql_where=_latest,
)
sa.Index("uq_task_task_id", task.c.task_id, task.c.platform, unique=True)
sa.Index(None, task.c.pipeline, task.c.claimed_at)
sa.Index(None, task.c.run_id)
sa.Index(None, task.c.state)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", _id, primary_key=True, autoincrement=True),
    sa.Column("pipeline", _name, nullable=False),
    sa.Column("asset", sa.String, nullable=False),
    sa.Column("key", _name, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("payload", Words, nullable=False),
    sa.Column("run_id", _name),
    sa.Column("created_at", _double, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index(None, outbox.c.pipeline, outbox.c.id)
_of_run = sa.text("run_id IS NOT NULL")
sa.Index("ix_outbox_of_run", outbox.c.pipeline, outbox.c.key, sqlite_where=_of_run, postgresql_where=_of_run)
