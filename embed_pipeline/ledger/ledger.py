"""The ledger as a whole, and the questions that span its tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import sqlalchemy as sa

from embed_pipeline.ledger.database import Database
from embed_pipeline.ledger.media import MediaFiles, chunks, ensure_pipeline
from embed_pipeline.ledger.outbox import Outbox
from embed_pipeline.ledger.rows import media_of, media_query
from embed_pipeline.ledger.runs import Runs
from embed_pipeline.ledger.states import (
    SERVING,
    MediaState,
    Step,
    TaskState,
    is_embedded,
    is_pending,
    media_state,
    media_step,
    with_task,
)
from embed_pipeline.ledger.tables import media, pipeline, task
from embed_pipeline.ledger.tasks import DAY_SEC, Tasks, spent
from embed_pipeline.ledger.values import MediaRow, Target


@dataclass(frozen=True, slots=True)
class DueFile:
    """A media file that something is to be done for.

    Args:
        key: The partition key.
        step: What: `SUBMIT` or `RECOVER`; `WAIT` or `COLLECT` where only a task is to be attached to it that serves
            its content already.
        interruptions: Runs that died while they read it.
        media_type: `audio` or `video`.
        duration_sec: Its length in seconds, where known.
    """

    key: str
    step: Step
    interruptions: int
    media_type: str
    duration_sec: float | None


@dataclass(frozen=True, slots=True)
class PendingFile:
    """A media file whose task has no segments in the dataset yet.

    Args:
        key: The partition key.
        row_id: The task's row.
        task_id: The platform's id.
        state: `PROCESSING`, or `READY` or `COLLECTED` where its result can be had.
        created_at: When the task was created, in seconds since 1970.
        platform: Where.
        interruptions: Runs that died while they fetched its result.
        is_free: Whether no run works on it or was requested for it.
    """

    key: str
    row_id: int
    task_id: str
    state: TaskState
    created_at: float
    platform: str
    interruptions: int
    is_free: bool


@dataclass(frozen=True, slots=True)
class DaySpending:
    """Media minutes that a pipeline spent within the last 24 hours.

    Args:
        minutes: How many.
        frees_at: When the oldest of them no longer count, in seconds since 1970; None where nothing was spent.
    """

    minutes: float
    frees_at: float | None


class FileOverview(NamedTuple):
    """A media file in few columns, for questions about all of them: the states and steps are their enums' values."""

    key: str
    state: str
    step: str
    fingerprint: str
    token: str | None
    media_type: str
    duration_sec: float | None
    embedded_fingerprint: str | None
    embedded_digest: str | None
    embedded_platform: str | None
    task_state: str | None
    error: str | None
    retry_at: float | None


class Ledger:
    """The relational store of media files and tasks: what is known, what was paid for, what became of it.

    Safe to use from many threads. Opened at the first use.

    Args:
        url: `sqlite:////path/ledger.db` or `postgresql://user:password@host:5432/database`.
        clock: Seconds since 1970, for tests that move time; by default the database's own clock.

    Raises:
        ConfigurationError: The URL is of no kind that the ledger takes.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None) -> None:
        self.database = Database(url, clock=clock)
        self.media = MediaFiles(self.database)
        self.tasks = Tasks(self.database)
        self.outbox = Outbox(self.database)
        self.runs = Runs(self.database)

    def __repr__(self) -> str:
        return f"Ledger({self.database.place})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.database.close()

    def now(self) -> float:
        """Return the time by the database's clock, in seconds since 1970."""
        return self.database.now()

    def rows(self, target: Target, keys: Collection[str]) -> dict[str, MediaRow]:
        """Return some media files with state, step and task, by partition key.

        Args:
            target: The pipeline.
            keys: Their partition keys; unknown ones are left out.
        """
        with self.database.read() as (connection, now):
            query = media_query(target, now)
            return {
                row.media_key: media_of(row)
                for part in chunks(keys)
                for row in connection.execute(query.where(media.c.key.in_(part)))
            }

    def all_rows(self, target: Target, *, states: Collection[MediaState] | None = None) -> Iterator[MediaRow]:
        """Stream all media files with state, step and task, by partition key.

        Args:
            target: The pipeline.
            states: Only those in these states; None for all.
        """
        with self.database.read() as (connection, now):
            query = media_query(target, now).order_by(media.c.key)
            if states is not None:
                query = query.where(media_state(target).in_([state.value for state in states]))
            for row in connection.execution_options(yield_per=2000).execute(query):
                yield media_of(row)

    def overview(self, target: Target) -> Iterator[FileOverview]:
        """Stream what tells apart the media files of a pipeline, by partition key.

        Args:
            target: The pipeline.
        """
        with self.database.read() as (connection, now):
            query = (
                sa.select(
                    media.c.key,
                    media_state(target),
                    media_step(target, now),
                    media.c.fingerprint,
                    media.c.token,
                    media.c.media_type,
                    media.c.duration_sec,
                    media.c.embedded_fingerprint,
                    media.c.embedded_digest,
                    media.c.embedded_platform,
                    task.c.state,
                    task.c.error,
                    task.c.retry_at,
                )
                .select_from(with_task(target))
                .where(media.c.pipeline == target.pipeline)
                .order_by(media.c.key)
            )
            for row in connection.execution_options(yield_per=10_000).execute(query):
                yield FileOverview(*row)

    def states(self, target: Target) -> dict[str, MediaState]:
        """Return the state of every media file of a pipeline, by partition key."""
        query = (
            sa.select(media.c.key, media_state(target))
            .select_from(with_task(target))
            .where(media.c.pipeline == target.pipeline)
            .order_by(media.c.key)
        )
        by_name = {state.value: state for state in MediaState}
        with self.database.read() as (connection, _):
            return {key: by_name[state] for key, state in connection.execute(query)}

    def counts(self, target: Target) -> dict[MediaState, int]:
        """Return how many media files are in each state; every state is named."""
        state = media_state(target).label("state")
        query = (
            sa.select(state, sa.func.count())
            .select_from(with_task(target))
            .where(media.c.pipeline == target.pipeline)
            .group_by(state)
        )
        with self.database.read() as (connection, _):
            found = {MediaState(name): count for name, count in connection.execute(query)}
        return {each: found.get(each, 0) for each in MediaState}

    def keys(self, name: str) -> list[str]:
        """Return the partition keys of a pipeline's media files, gone ones included."""
        with self.database.read() as (connection, _):
            found = connection.execute(sa.select(media.c.key).where(media.c.pipeline == name).order_by(media.c.key))
            return [key for (key,) in found]

    def due(self, target: Target, *, waiting: bool = False) -> list[DueFile]:
        """Return the media files that a task is to be created, recovered or attached for.

        Args:
            target: The pipeline.
            waiting: Also those that are deferred, or that a run works on or was requested for.
        """
        with self.database.read() as (connection, now):
            step = media_step(target, now)
            # Created for another pipeline, or for settings that were in force before.
            is_unattached = sa.and_(
                task.c.state.in_(SERVING),
                sa.or_(media.c.task_id.is_(None), media.c.task_id != task.c.task_id),
                step != Step.NONE.value,
            )
            query = (
                sa.select(
                    media.c.key, step.label("step"), media.c.interruptions, media.c.media_type, media.c.duration_sec
                )
                .select_from(with_task(target))
                .where(
                    media.c.pipeline == target.pipeline,
                    media.c.gone_at.is_(None),
                    sa.or_(step.in_((Step.SUBMIT.value, Step.RECOVER.value)), is_unattached),
                    *([] if waiting else [_is_free(now)]),
                )
            )
            return [
                DueFile(row.key, Step(row.step), row.interruptions, row.media_type, row.duration_sec)
                for row in connection.execute(query)
            ]

    def deferred(self, name: str, *, most: int = 3) -> list[tuple[str, int, str]]:
        """Return why media files are deferred, with how many each reason holds back and the first of them.

        Args:
            name: The pipeline.
            most: Reasons to return, those with the most files first.
        """
        count = sa.func.count()
        with self.database.read() as (connection, now):
            query = (
                sa.select(media.c.deferred_reason, count, sa.func.min(media.c.key))
                .where(
                    media.c.pipeline == name,
                    media.c.deferred_until > now,
                    media.c.deferred_reason.is_not(None),
                    media.c.gone_at.is_(None),
                )
                .group_by(media.c.deferred_reason)
                .order_by(count.desc(), media.c.deferred_reason)
                .limit(most)
            )
            return [(reason, files, first) for reason, files, first in connection.execute(query)]

    def pending(self, name: str) -> list[PendingFile]:
        """Return the media files whose task has no segments under their name yet, oldest task first.

        Args:
            name: The pipeline.
        """
        states = [state.value for state in SERVING]
        with self.database.read() as (connection, now):
            query = (
                sa.select(
                    media.c.key,
                    task.c.id,
                    task.c.task_id,
                    task.c.state,
                    task.c.created_at,
                    task.c.platform,
                    media.c.interruptions,
                    _is_free(now),
                )
                .select_from(media.join(task, task.c.task_id == media.c.task_id))
                .where(media.c.pipeline == name, is_pending(), task.c.state.in_(states))
                .order_by(task.c.created_at, media.c.key)
            )
            return [
                PendingFile(key, row_id, task_id, TaskState(state), created_at, platform, interruptions, bool(free))
                for key, row_id, task_id, state, created_at, platform, interruptions, free in connection.execute(query)
            ]

    def embedded_under(self, name: str, task_id: str) -> list[str]:
        """Return the media files under whose names the dataset should have the segments of a task.

        Args:
            name: The pipeline.
            task_id: The platform's id.
        """
        query = sa.select(media.c.key).where(media.c.pipeline == name, media.c.embedded_task_id == task_id)
        with self.database.read() as (connection, _):
            return [key for (key,) in connection.execute(query.order_by(media.c.key))]

    def segment_sets(self, name: str, *, gone: bool) -> dict[str, str]:
        """Return the settings digest of the segments that the dataset should have, by partition key.

        Args:
            name: The pipeline.
            gone: Also those of media files that are gone.
        """
        query = sa.select(media.c.key, media.c.embedded_digest).where(
            media.c.pipeline == name,
            media.c.embedded_task_id.is_not(None),
            *([] if gone else [media.c.gone_at.is_(None)]),
        )
        with self.database.read() as (connection, _):
            return {row.key: row.embedded_digest for row in connection.execute(query)}

    def problems(self, name: str) -> dict[str, Mapping[str, str]]:
        """Return what validation found wrong with media files' segments, by partition key and kind."""
        query = sa.select(media.c.key, media.c.problems).where(
            media.c.pipeline == name, media.c.problems.is_not(None), media.c.embedded_task_id.is_not(None)
        )
        with self.database.read() as (connection, _):
            return {key: json.loads(text) for key, text in connection.execute(query.order_by(media.c.key))}

    def awaited_contents(self, target: Target) -> set[str]:
        """Return the contents that a present media file is not embedded with yet."""
        query = sa.select(media.c.fingerprint).where(
            media.c.pipeline == target.pipeline,
            media.c.gone_at.is_(None),
            sa.not_(sa.func.coalesce(is_embedded(target), sa.false())),
        )
        with self.database.read() as (connection, _):
            return {fingerprint for (fingerprint,) in connection.execute(query.distinct())}

    def spent_today(self, target: Target) -> DaySpending:
        """Return the media minutes that a pipeline spent within the last 24 hours."""
        with self.database.read() as (connection, now):
            recent = task.c.claimed_at > now - DAY_SEC
            oldest = connection.execute(
                sa.select(sa.func.min(task.c.claimed_at)).where(task.c.pipeline == target.pipeline, recent)
            ).scalar_one_or_none()
            minutes = spent(connection, target, recent)
            return DaySpending(minutes, None if oldest is None else oldest + DAY_SEC)

    def minutes_billed(self, name: str) -> dict[str, tuple[float | None, int]]:
        """Return the minutes and the number of the tasks that were created for each media file, where there are any."""
        query = (
            sa.select(task.c.key, sa.func.sum(task.c.minutes), sa.func.count(), sa.func.count(task.c.minutes))
            .where(task.c.pipeline == name, task.c.task_id.is_not(None), task.c.origin != "imported")
            .group_by(task.c.key)
        )
        with self.database.read() as (connection, _):
            return {
                key: (minutes if counted == known else None, counted)
                for key, minutes, counted, known in connection.execute(query)
            }

    def changed_at(self, name: str) -> float | None:
        """Return when anything about a pipeline's media files changed last; None where there are none."""
        query = sa.select(sa.func.max(media.c.updated_at)).where(media.c.pipeline == name)
        with self.database.read() as (connection, _):
            return connection.execute(query).scalar_one_or_none()

    def note(self, name: str, **facts: float | str | None) -> None:
        """Record facts of a pipeline: `imported_at`, `table_requested_at`, `table_built_at`, `left_out`."""
        with self.database.write() as (connection, _):
            ensure_pipeline(connection, name)
            connection.execute(sa.update(pipeline).where(pipeline.c.name == name).values(facts))

    def noted(self, name: str) -> Mapping[str, Any]:
        """Return the facts that were recorded of a pipeline; None for those that were not."""
        with self.database.read() as (connection, _):
            row = connection.execute(sa.select(pipeline).where(pipeline.c.name == name)).mappings().one_or_none()
            return dict(row) if row is not None else {column.name: None for column in pipeline.c}


def _is_free(now: float) -> sa.ColumnElement[bool]:
    return sa.and_(
        sa.or_(media.c.deferred_until.is_(None), media.c.deferred_until <= now),
        sa.or_(media.c.lease_until.is_(None), media.c.lease_until <= now),
    )
