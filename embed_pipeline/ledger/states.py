"""States of tasks and media files, and the next step of each: every rule as one SQL expression, used by all queries."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from embed_pipeline.ledger.tables import media, task
from embed_pipeline.ledger.values import Target


class TaskState(StrEnum):
    """State of one attempt on one content."""

    CLAIMED = "claimed"  # a run has the right to create it, or did when it died
    PROCESSING = "processing"  # the platform has it
    READY = "ready"  # it has ended on the platform, and its result is to be fetched
    COLLECTED = "collected"  # its segments are in the dataset
    REFUSED = "refused"  # nothing was created: the content or the request was turned down
    FAILED = "failed"  # the platform cannot embed this content
    RETRYABLE = "retryable"  # it failed for a cause that may pass
    EXPIRED = "expired"  # the platform does not keep its result any more


class MediaState(StrEnum):
    """State of a media file, as people see it; each file is in exactly one."""

    UNSUBMITTED = "unsubmitted"
    PROCESSING = "processing"
    EMBEDDED = "embedded"
    FAILED = "failed"
    EXPIRED = "expired"
    GONE = "gone"


class Step(StrEnum):
    """The next thing to do for a media file or a content."""

    NONE = "none"  # embedded, or gone
    SUBMIT = "submit"  # create a task
    RECOVER = "recover"  # find out whether a run that died has created one
    WAIT = "wait"  # another run is creating it, or the platform is processing it
    COLLECT = "collect"  # fetch its result
    BACK_OFF = "back_off"  # create another task, but not yet
    GIVE_UP = "give_up"  # nothing, unless a person asks for it


SERVING = (TaskState.PROCESSING, TaskState.READY, TaskState.COLLECTED)
"""States in which a task serves every media file of its content."""

ENDED = (TaskState.REFUSED, TaskState.FAILED, TaskState.RETRYABLE, TaskState.EXPIRED)
"""States in which a task gives no result."""


def wanted_digest(target: Target) -> sa.ColumnElement[str]:
    """Return the digest of the settings that a media file is to be embedded with."""
    return sa.case((media.c.media_type == "audio", target.audio_digest), else_=sa.literal(target.video_digest))


def with_task(target: Target) -> sa.Join:
    """Join each media file with the latest task of its content, if there is one."""
    return media.outerjoin(
        task,
        sa.and_(
            task.c.fingerprint == media.c.fingerprint,
            task.c.settings_digest == wanted_digest(target),
            task.c.platform == target.platform,
            task.c.is_latest,
        ),
    )


def is_embedded(target: Target) -> sa.ColumnElement[bool]:
    """Hold for a media file whose segments in the dataset are of its present content, settings, platform and task."""
    return sa.and_(
        media.c.embedded_task_id == media.c.task_id,
        media.c.embedded_fingerprint == media.c.fingerprint,
        media.c.embedded_digest == wanted_digest(target),
        media.c.embedded_platform == target.platform,
    )


def is_pending() -> sa.ColumnElement[bool]:
    """Hold for a media file that is attached to a task whose segments the dataset does not have under its name."""
    return sa.and_(
        media.c.task_id.is_not(None),
        sa.or_(media.c.embedded_task_id.is_(None), media.c.embedded_task_id != media.c.task_id),
    )


def task_step(target: Target, now: float) -> sa.ColumnElement[str]:
    """Return the next step for a content, from its latest task alone.

    Args:
        target: What is embedded with what; a refusal under another configuration does not count.
        now: The time by the database's clock.
    """
    state, lapsed = task.c.state, task.c.lease_until <= now
    again = sa.and_(state.in_((TaskState.RETRYABLE, TaskState.EXPIRED)), task.c.tries < target.max_attempts)
    due = sa.or_(task.c.retry_at.is_(None), task.c.retry_at <= now)
    return sa.case(
        (task.c.id.is_(None), Step.SUBMIT.value),
        (sa.and_(state == TaskState.CLAIMED, sa.not_(lapsed)), Step.WAIT.value),
        (sa.and_(state == TaskState.CLAIMED, task.c.sent_at.is_not(None)), Step.RECOVER.value),
        (state == TaskState.CLAIMED, Step.SUBMIT.value),
        (state == TaskState.PROCESSING, Step.WAIT.value),
        (state.in_((TaskState.READY, TaskState.COLLECTED)), Step.COLLECT.value),
        (sa.and_(state == TaskState.REFUSED, task.c.config_digest != target.config_digest), Step.SUBMIT.value),
        (sa.and_(again, due), Step.SUBMIT.value),
        (again, Step.BACK_OFF.value),
        else_=Step.GIVE_UP.value,
    )


def media_step(target: Target, now: float) -> sa.ColumnElement[str]:
    """Return the next step for a media file that is joined with its task."""
    return sa.case(
        (sa.or_(media.c.gone_at.is_not(None), is_embedded(target)), Step.NONE.value), else_=task_step(target, now)
    )


def media_state(target: Target) -> sa.ColumnElement[str]:
    """Return the state of a media file that is joined with its task."""
    state = task.c.state
    other_config = sa.and_(state == TaskState.REFUSED, task.c.config_digest != target.config_digest)
    return sa.case(
        (media.c.gone_at.is_not(None), MediaState.GONE.value),
        (is_embedded(target), MediaState.EMBEDDED.value),
        (sa.or_(task.c.id.is_(None), state == TaskState.CLAIMED, other_config), MediaState.UNSUBMITTED.value),
        (state.in_(SERVING), MediaState.PROCESSING.value),
        (state == TaskState.EXPIRED, MediaState.EXPIRED.value),
        else_=MediaState.FAILED.value,
    )
