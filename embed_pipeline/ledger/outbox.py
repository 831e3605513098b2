"""The outbox: changes that Dagster has not been told of yet, written in the transaction that made them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from embed_pipeline.ledger.database import Database
from embed_pipeline.ledger.tables import outbox
from embed_pipeline.ledger.values import to_json

Kind = Literal["content", "gone", "task", "failure", "segments", "retired"]
Change = tuple[Kind, str, Mapping[str, Any]]
"""Kind, partition key and payload of a change."""
ASSETS: Mapping[Kind, str] = {
    "content": "media_files",
    "gone": "media_files",
    "task": "embedding_tasks",
    "failure": "embedding_tasks",
    "segments": "segment_embeddings",
    "retired": "segment_embeddings",
}
# A run reports its rows within a second; what is older was left by one that died.
_LEFT_AFTER_SEC = 30.0


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A change to report.

    Args:
        id: The row; rows of one media file are reported in this order.
        kind: What happened.
        key: The partition key.
        payload: What is known of it, as JSON values.
        created_at: When it happened, in seconds since 1970.
    """

    id: int
    kind: Kind
    key: str
    payload: Mapping[str, Any]
    created_at: float

    @property
    def asset(self) -> str:
        """The asset that the change belongs to."""
        return ASSETS[self.kind]


def append(
    connection: sa.Connection,
    now: float,
    pipeline: str,
    changes: Iterable[Change],
    *,
    run_id: str | None = None,
    own: Collection[str] | None = None,
) -> list[OutboxRow]:
    """Add changes within a transaction.

    Args:
        connection: The transaction.
        now: Its time.
        pipeline: The pipeline.
        changes: Kind, partition key and payload of each.
        run_id: The run that reports its own; None leaves them to the next sensor tick.
        own: The partition keys that the run reports; None for all.

    Returns:
        The rows that the run is to report.
    """
    ordered = list(changes)
    if not ordered:
        return []
    reporters = [run_id if own is None or key in own else None for _, key, _ in ordered]
    new_ids = connection.execute(
        sa.insert(outbox).returning(outbox.c.id, sort_by_parameter_order=True),
        [
            {
                "pipeline": pipeline,
                "asset": ASSETS[kind],
                "key": key,
                "kind": kind,
                "payload": to_json(payload),
                "run_id": reporter,
                "created_at": now,
            }
            for (kind, key, payload), reporter in zip(ordered, reporters, strict=True)
        ],
    ).scalars()
    return [
        OutboxRow(new_id, kind, key, payload, now)
        for new_id, (kind, key, payload), reporter in zip(new_ids, ordered, reporters, strict=True)
        if reporter is not None
    ]


class Outbox:
    """Changes that are still to be reported.

    Args:
        database: The ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def unreported(
        self, pipeline: str, *, limit: int = 500, left_after_sec: float = _LEFT_AFTER_SEC
    ) -> list[OutboxRow]:
        """Return the oldest rows that no live run will report, in order for each media file.

        Args:
            pipeline: The pipeline.
            limit: Rows at the most.
            left_after_sec: A run's own rows count as left behind after so many seconds.
        """
        columns, earlier = outbox.c, outbox.alias("earlier")
        with self._database.read() as (connection, now):
            young = now - left_after_sec
            # A later change of a media file waits until a run has reported the earlier one.
            awaited = sa.exists().where(
                earlier.c.pipeline == pipeline,
                earlier.c.key == columns.key,
                earlier.c.run_id.is_not(None),
                earlier.c.created_at > young,
                earlier.c.id < columns.id,
            )
            found = connection.execute(
                sa.select(columns.id, columns.kind, columns.key, columns.payload, columns.created_at)
                .where(
                    columns.pipeline == pipeline,
                    sa.or_(columns.run_id.is_(None), columns.created_at <= young),
                    sa.not_(awaited),
                )
                .order_by(columns.id)
                .limit(limit)
            )
            return [OutboxRow(row.id, row.kind, row.key, json.loads(row.payload), row.created_at) for row in found]

    def count(self, pipeline: str) -> int:
        """Return how many rows wait, those of live runs included."""
        with self._database.read() as (connection, _):
            counted = sa.select(sa.func.count()).select_from(outbox).where(outbox.c.pipeline == pipeline)
            return int(connection.execute(counted).scalar_one())

    def delete(self, ids: Sequence[int]) -> None:
        """Delete rows that were reported."""
        if not ids:
            return
        with self._database.write() as (connection, _):
            for start in range(0, len(ids), 500):
                connection.execute(sa.delete(outbox).where(outbox.c.id.in_(ids[start : start + 500])))
