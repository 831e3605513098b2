"""Rows of the database as values."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from embed_pipeline.ledger.states import MediaState, Step, TaskState, media_state, media_step, with_task
from embed_pipeline.ledger.tables import media, task
from embed_pipeline.ledger.values import Content, MediaRow, Target, TaskRow

TASK_COLUMNS = [column.label(f"task_{column.name}") for column in task.c]


def task_of(row: Any) -> TaskRow | None:
    """Return the task in a row of `TASK_COLUMNS`; None where the join found none."""
    if row.task_id is None:
        return None
    return TaskRow(
        id=row.task_id,
        content=Content(row.task_fingerprint, row.task_settings_digest, row.task_platform),
        attempt=row.task_attempt,
        tries=row.task_tries,
        state=TaskState(row.task_state),
        pipeline=row.task_pipeline,
        key=row.task_key,
        run_id=row.task_run_id,
        owner=row.task_owner,
        claimed_at=row.task_claimed_at,
        sent_at=row.task_sent_at,
        in_doubt_until=row.task_in_doubt_until,
        source_url=row.task_source_url,
        source_filename=row.task_source_filename,
        asset_id=row.task_asset_id,
        media_type=row.task_media_type,
        settings=json.loads(row.task_settings),
        config_digest=row.task_config_digest,
        minutes=row.task_minutes,
        task_id=row.task_task_id,
        origin=row.task_origin,
        created_at=row.task_created_at,
        ready_at=row.task_ready_at,
        ended_at=row.task_ended_at,
        expires_at=row.task_expires_at,
        retry_at=row.task_retry_at,
        error=row.task_error,
        fence=row.task_fence,
    )


def media_query(target: Target, now: float) -> sa.Select[Any]:
    """Select the media files of a pipeline with their state, step and task."""
    return (
        sa.select(
            *(column.label(f"media_{column.name}") for column in media.c),
            media_state(target).label("state"),
            media_step(target, now).label("step"),
            *TASK_COLUMNS,
        )
        .select_from(with_task(target))
        .where(media.c.pipeline == target.pipeline)
    )


def media_of(row: Any) -> MediaRow:
    """Return the media file in a row of `media_query`."""
    return MediaRow(
        key=row.media_key,
        uri=row.media_uri,
        media_type=row.media_media_type,
        fingerprint=row.media_fingerprint,
        state=MediaState(row.state),
        step=Step(row.step),
        size=row.media_size,
        duration_sec=row.media_duration_sec,
        is_gone=row.media_gone_at is not None,
        task=task_of(row),
        task_id=row.media_task_id,
        embedded_task_id=row.media_embedded_task_id,
        embedded_digest=row.media_embedded_digest,
        embedded_fingerprint=row.media_embedded_fingerprint,
        embedded_platform=row.media_embedded_platform,
        segments=row.media_segments,
        space=row.media_space,
        size_bytes=row.media_size_bytes,
        written_at=row.media_written_at,
        problems=json.loads(row.media_problems) if row.media_problems else {},
        deferred_reason=row.media_deferred_reason,
        deferred_since=row.media_deferred_since,
        deferred_until=row.media_deferred_until,
        requests=row.media_requests,
        interruptions=row.media_interruptions,
        failures=row.media_failures,
        run_id=row.media_run_id,
        lease_until=row.media_lease_until,
    )
