"""Media files in the ledger: what the library holds, what serves each, what each waits for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from embed_pipeline.ledger import outbox
from embed_pipeline.ledger.database import Database
from embed_pipeline.ledger.outbox import OutboxRow
from embed_pipeline.ledger.rows import TASK_COLUMNS, media_of, media_query, task_of
from embed_pipeline.ledger.states import ENDED, SERVING, TaskState
from embed_pipeline.ledger.tables import media, pipeline, task
from embed_pipeline.ledger.values import Content, MediaFacts, Target, TaskRow

CHUNK = 500
"""Keys in one statement, at the most."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A media file as the ledger last saw it.

    Args:
        fingerprint: Its content.
        token: The library's cheap sign of that content; None where there is none.
        is_gone: Whether it vanished.
        has_task: Whether it ever had a task or segments of which something is left.
    """

    fingerprint: str
    token: str | None
    is_gone: bool
    has_task: bool


class MediaFiles:
    """Media files of all pipelines.

    Args:
        database: The ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, name: str, keys: Collection[str] | None = None) -> dict[str, KnownFile]:
        """Return the media files of a pipeline by partition key.

        Args:
            name: The pipeline.
            keys: Only these; None for all.
        """
        columns = (
            media.c.key,
            media.c.fingerprint,
            media.c.token,
            media.c.gone_at,
            media.c.task_id,
            media.c.embedded_task_id,
        )
        query: sa.Select[Any] = sa.select(*columns).where(media.c.pipeline == name)
        with self._database.read() as (connection, _):
            found: Iterable[Any] = connection.execute(query)
            if keys is not None:
                found = _in_chunks(connection, query, keys)
            return {
                row.key: KnownFile(
                    row.fingerprint,
                    row.token,
                    row.gone_at is not None,
                    row.task_id is not None or row.embedded_task_id is not None,
                )
                for row in found
            }

    def record(
        self, target: Target, files: Sequence[MediaFacts], *, run_id: str | None = None, again: Collection[str] = ()
    ) -> list[OutboxRow]:
        """Record media files that are new, changed or back, and attach each to the task that serves its content.

        Args:
            target: The pipeline.
            files: The files. One whose content is known already only gets its address and token.
            run_id: The run that reports the changes.
            again: Partition keys that are reported although nothing about them changed.

        Returns:
            The changes that the run is to report.
        """
        rows: list[OutboxRow] = []
        ordered = sorted(files, key=lambda file: file.key)
        for start in range(0, len(ordered), CHUNK):
            part = ordered[start : start + CHUNK]
            with self._database.write() as (connection, now):
                changed = _upsert(connection, now, target.pipeline, part)
                told = [file for file in part if file.key in changed or file.key in again]
                contents: list[outbox.Change] = [("content", file.key, _content_payload(file)) for file in told]
                rows += outbox.append(connection, now, target.pipeline, contents, run_id=run_id)
                rows += attach(connection, now, target, [file.key for file in told], run_id=run_id)
        return rows

    def mark_gone(self, name: str, keys: Collection[str]) -> None:
        """Record that media files vanished from the library."""
        with self._database.write() as (connection, now):
            for part in chunks(sorted(keys)):
                lock_files(connection, name, part)
                found = connection.execute(
                    sa.update(media)
                    .where(media.c.pipeline == name, media.c.key.in_(part), media.c.gone_at.is_(None))
                    .values(gone_at=now, updated_at=now, **UNDEFERRED)
                    .returning(media.c.key, media.c.fingerprint)
                ).all()
                changes: list[outbox.Change] = [("gone", key, {"fingerprint": content}) for key, content in found]
                outbox.append(connection, now, name, changes)

    def forget(self, name: str, keys: Collection[str], *, retired: bool) -> None:
        """Remove media files from the ledger; their tasks stay.

        Args:
            name: The pipeline.
            keys: Their partition keys.
            retired: Whether their segments were removed from the dataset, which is reported.
        """
        with self._database.write() as (connection, now):
            for part in chunks(sorted(keys)):
                lock_files(connection, name, part)
                if retired:
                    outbox.append(connection, now, name, (("retired", key, {}) for key in part))
                connection.execute(sa.delete(media).where(media.c.pipeline == name, media.c.key.in_(part)))

    def report_again(self, target: Target, keys: Collection[str]) -> None:
        """Put all that is known of media files into the outbox, for an instance that does not know them."""
        with self._database.write() as (connection, now):
            for part in chunks(sorted(keys)):
                lock_files(connection, target.pipeline, part)
                query = media_query(target, now).where(media.c.key.in_(part))
                for row in map(media_of, connection.execute(query)):
                    facts = MediaFacts(row.key, row.uri, row.media_type, row.fingerprint, row.size)
                    changes: list[outbox.Change] = [("content", row.key, _content_payload(facts))]
                    if row.is_gone:
                        changes.append(("gone", row.key, {"fingerprint": row.fingerprint}))
                    served = row.task if row.task is not None and row.task.task_id == row.task_id else None
                    if served is not None and row.task_id is not None:
                        changes.append(("task", row.key, task_payload(served, row.uri, row.fingerprint, attached=True)))
                        if served.error is not None:
                            changes.append(("failure", row.key, failure_payload(served)))
                    elif row.task is not None and row.task.error is not None:
                        changes.append(("failure", row.key, failure_payload(row.task)))
                    if row.embedded_task_id is not None and row.embedded_task_id == row.task_id:
                        changes.append(("segments", row.key, _segments_again(row)))
                    outbox.append(connection, now, target.pipeline, changes)

    def set_type(self, name: str, types: Mapping[str, tuple[str, float | None]]) -> None:
        """Record what media files really hold.

        Args:
            name: The pipeline.
            types: `audio` or `video`, and the length in seconds, by partition key.
        """
        if not types:
            return
        with self._database.write() as (connection, now):
            connection.execute(
                sa.update(media)
                .where(media.c.pipeline == name, media.c.key == sa.bindparam("of_key"))
                .values(updated_at=now, interruptions=0)
                .values({name: sa.bindparam(f"new_{name}") for name in ("media_type", "duration_sec")}),
                [
                    {"of_key": key, "new_media_type": media_type, "new_duration_sec": duration_sec}
                    for key, (media_type, duration_sec) in sorted(types.items())
                ],
            )

    def request(self, name: str, keys: Collection[str], *, patience_sec: float) -> None:
        """Record that a run was requested for media files, so that the next request waits for what comes of it.

        Args:
            name: The pipeline.
            keys: Their partition keys.
            patience_sec: Seconds until the next request; doubled from the fifth request in vain on, up to an hour.
        """
        doublings = sa.case((media.c.requests >= 10, 6), (media.c.requests >= 4, media.c.requests - 3), else_=0)
        wait = sa.case(*((doublings == number, min(patience_sec * 2**number, 3600.0)) for number in range(7)))
        with self._database.write() as (connection, now):
            for part in chunks(sorted(keys)):
                lock_files(connection, name, part)
                connection.execute(
                    sa.update(media)
                    .where(media.c.pipeline == name, media.c.key.in_(part))
                    .values(requests=media.c.requests + 1, deferred_until=now + wait, deferred_since=now)
                    .values(deferred_reason=sa.literal("a run was requested for it"))
                )

    def begin_work(self, name: str, keys: Collection[str], *, run_id: str, lease_sec: float) -> None:
        """Record that a run works on media files, but for those that a live run works on."""
        with self._database.write() as (connection, now):
            for part in chunks(sorted(keys)):
                lock_files(connection, name, part)
                connection.execute(
                    sa.update(media)
                    .where(media.c.pipeline == name, media.c.key.in_(part))
                    .where(sa.or_(media.c.run_id.is_(None), media.c.lease_until <= now, media.c.run_id == run_id))
                    .values(
                        run_id=run_id,
                        lease_until=now + lease_sec,
                        requests=0,
                        deferred_reason=None,
                        deferred_since=None,
                        deferred_until=None,
                    )
                )

    def count_try(self, name: str, keys: Collection[str]) -> None:
        """Count media files as interrupted, until anything comes of them: whatever they hold may kill the process."""
        with self._database.write() as (connection, _):
            for part in chunks(sorted(keys)):
                lock_files(connection, name, part)
                connection.execute(
                    sa.update(media)
                    .where(media.c.pipeline == name, media.c.key.in_(part))
                    .values(interruptions=media.c.interruptions + 1)
                )

    def clear_tries(self, name: str, keys: Collection[str]) -> None:
        """Record that the process outlived its tries with media files."""
        with self._database.write() as (connection, _):
            for part in chunks(sorted(keys)):
                lock_files(connection, name, part)
                counted = media.c.pipeline == name, media.c.key.in_(part), media.c.interruptions > 0
                connection.execute(sa.update(media).where(*counted).values(interruptions=0))

    def renew_work(self, *, run_id: str, lease_sec: float) -> None:
        """Extend the lease of a run on the media files that it works on."""
        with self._database.write() as (connection, now):
            _lock(connection, media.c.run_id == run_id)
            connection.execute(sa.update(media).where(media.c.run_id == run_id).values(lease_until=now + lease_sec))

    def end_work(self, *, run_id: str) -> None:
        """Record that a run works on nothing any more."""
        with self._database.write() as (connection, _):
            _lock(connection, media.c.run_id == run_id)
            connection.execute(
                sa.update(media).where(media.c.run_id == run_id).values(run_id=None, lease_until=None, interruptions=0)
            )

    def defer(
        self, name: str, reasons: Mapping[str, tuple[str, float | None]], *, failed: Collection[str] = ()
    ) -> None:
        """Record why nothing is done for media files at present.

        Args:
            name: The pipeline.
            reasons: The reason, and for how many seconds, by partition key; None for an unknown time.
            failed: The partition keys of those for which a run failed, which is counted.
        """
        with self._database.write() as (connection, now):
            for key, (reason, wait_sec) in sorted(reasons.items()):
                since = sa.case((media.c.deferred_reason == reason, media.c.deferred_since), else_=now)
                connection.execute(
                    sa.update(media)
                    .where(media.c.pipeline == name, media.c.key == key)
                    .values(
                        deferred_since=since,
                        deferred_reason=reason,
                        deferred_until=None if wait_sec is None else now + wait_sec,
                        failures=media.c.failures + int(key in failed),
                    )
                )

    def remove_segments(self, name: str, keys: Collection[str]) -> None:
        """Record that the dataset does not have the segments of media files any more."""
        with self._database.write() as (connection, now):
            for part in chunks(sorted(keys)):
                lock_files(connection, name, part)
                connection.execute(
                    sa.update(media)
                    .where(media.c.pipeline == name, media.c.key.in_(part))
                    .values(updated_at=now, **dict.fromkeys(_EMBEDDED))
                )


UNDEFERRED: dict[str, Any] = {
    "deferred_reason": None,
    "deferred_since": None,
    "deferred_until": None,
    "requests": 0,
    "interruptions": 0,
    "failures": 0,
}
_EMBEDDED = (
    "embedded_fingerprint",
    "embedded_digest",
    "embedded_platform",
    "embedded_task_id",
    "segments",
    "space",
    "size_bytes",
    "written_at",
    "problems",
)


def attach(
    connection: sa.Connection,
    now: float,
    target: Target,
    keys: Collection[str],
    *,
    run_id: str | None = None,
    own: Collection[str] | None = None,
    again: bool = False,
) -> list[OutboxRow]:
    """Attach media files to the tasks that serve their contents, within a transaction.

    Args:
        connection: The transaction.
        now: Its time.
        target: The pipeline.
        keys: The media files.
        run_id: The run that reports the changes.
        own: The partition keys that it reports; None for all.
        again: Also report the files that are attached already, and those whose task gave no result. Where an earlier
            task of the content gave one, as before a forced one that failed, the content goes back to it.
    """
    rows: list[OutboxRow] = []
    for part in chunks(sorted(keys)):
        # Locked before their tasks are read: a content must not change until it is attached.
        files = connection.execute(
            sa.select(media.c.key, media.c.uri, media.c.fingerprint, media.c.media_type, media.c.task_id)
            .where(media.c.pipeline == target.pipeline, media.c.key.in_(part))
            .order_by(media.c.key)
            .with_for_update()
        ).all()
        tasks = _latest_tasks(connection, target, {file.fingerprint for file in files})
        if again:
            ended = {content: row for content, row in tasks.items() if row.state in ENDED and row.attempt > 1}
            tasks |= {content: _go_back(connection, row) for content, row in ended.items()}
        changes: list[outbox.Change] = []
        attached: list[dict[str, Any]] = []
        for file in files:
            served = tasks.get((file.fingerprint, target.digest(file.media_type)))
            if served is None or served.task_id is None or not (again or served.state in SERVING):
                continue
            is_attached = file.task_id == served.task_id
            if is_attached and not again:
                continue
            elsewhere = served.key != file.key or served.pipeline != target.pipeline
            payload = task_payload(served, file.uri, file.fingerprint, attached=elsewhere or is_attached)
            changes.append(("task", file.key, payload))
            if not is_attached:
                attached.append({"of_key": file.key, "new_task_id": served.task_id})
        if attached:
            connection.execute(
                sa.update(media)
                .where(media.c.pipeline == target.pipeline, media.c.key == sa.bindparam("of_key"))
                .values(task_id=sa.bindparam("new_task_id"), updated_at=now)
                .values(run_id=None, lease_until=None, **UNDEFERRED),
                attached,
            )
        rows += outbox.append(connection, now, target.pipeline, changes, run_id=run_id, own=own)
    return rows


def _latest_tasks(
    connection: sa.Connection, target: Target, fingerprints: Collection[str]
) -> dict[tuple[str, str], TaskRow]:
    """Return the latest tasks of contents for a pipeline, by fingerprint and settings digest."""
    query = sa.select(*TASK_COLUMNS).where(
        task.c.fingerprint.in_(fingerprints),
        task.c.settings_digest.in_({target.audio_digest, target.video_digest}),
        task.c.platform == target.platform,
        task.c.is_latest,
    )
    found = map(task_of, connection.execute(query))
    return {(row.content.fingerprint, row.content.settings_digest): row for row in found if row is not None}


def _go_back(connection: sa.Connection, ended: TaskRow) -> TaskRow:
    """Make the last attempt with a result that is in the dataset the latest one; returns the task that counts."""
    of_content = (
        task.c.fingerprint == ended.content.fingerprint,
        task.c.settings_digest == ended.content.settings_digest,
        task.c.platform == ended.content.platform,
    )
    query = sa.select(*TASK_COLUMNS).where(*of_content, task.c.state == TaskState.COLLECTED)
    found = connection.execute(query.order_by(task.c.attempt.desc()).limit(1).with_for_update()).one_or_none()
    earlier = task_of(found) if found is not None else None
    if earlier is None:
        return ended
    # One after the other: a content has one latest task at any time.
    connection.execute(sa.update(task).where(task.c.id == ended.id).values(is_latest=False))
    connection.execute(sa.update(task).where(task.c.id == earlier.id).values(is_latest=True))
    return earlier


def names_of(connection: sa.Connection, target: Target, contents: Collection[Content]) -> list[str]:
    """Return the media files of a pipeline that hold one of some contents and want it with its settings."""
    wanted = {(content.fingerprint, content.settings_digest) for content in contents}
    return sorted(
        key
        for part in chunks({content.fingerprint for content in contents})
        for key, fingerprint, media_type in connection.execute(
            sa.select(media.c.key, media.c.fingerprint, media.c.media_type).where(
                media.c.pipeline == target.pipeline, media.c.fingerprint.in_(part), media.c.gone_at.is_(None)
            )
        )
        if (fingerprint, target.digest(media_type)) in wanted
    )


def lock_files(connection: sa.Connection, name: str, keys: Collection[str]) -> None:
    """Lock media files until the transaction ends; their outbox rows then have the order of their changes."""
    _lock(connection, media.c.pipeline == name, media.c.key.in_(keys))


def _lock(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> None:
    """Lock media files in one order, so that two transactions never wait for each other."""
    if connection.dialect.name != "sqlite":
        ordered = sa.select(media.c.key).where(*conditions).order_by(media.c.pipeline, media.c.key)
        connection.execute(ordered.with_for_update())


def insert_new(connection: sa.Connection, table: sa.Table) -> Any:
    """Return an insert that leaves rows alone which are there already."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table).on_conflict_do_nothing()


def ensure_pipeline(connection: sa.Connection, name: str) -> None:
    """Add the row of a pipeline where there is none."""
    connection.execute(insert_new(connection, pipeline).values(name=name))


def chunks(values: Collection[_T]) -> Iterator[list[_T]]:
    """Cut values into parts that fit into one statement."""
    ordered = list(values)
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]


def task_payload(row: TaskRow, uri: str, fingerprint: str, *, attached: bool) -> dict[str, Any]:
    """Return what a report of a media file's task shows."""
    return {
        "task_id": row.task_id,
        "origin": "attached" if attached else row.origin,
        "attempt": row.attempt,
        "submitted_at": row.created_at,
        "fingerprint": fingerprint,
        "settings_digest": row.content.settings_digest,
        "platform": row.content.platform,
        "run_id": row.run_id,
        "uri": uri,
        "minutes": row.minutes,
        "settings": dict(row.settings),
        "config_digest": row.config_digest,
    }


def failure_payload(row: TaskRow) -> dict[str, Any]:
    """Return what a report of a task without a result shows."""
    return {"error": row.error, "state": row.state.value, "attempt": row.attempt, "task_id": row.task_id}


def _segments_again(row: Any) -> dict[str, Any]:
    return {
        "task_id": row.embedded_task_id,
        "segments": row.segments,
        "space": row.space,
        "size_bytes": row.size_bytes,
        "duration_sec": row.duration_sec,
        "settings_digest": row.embedded_digest,
        "problems": dict(row.problems),
    }


def _content_payload(file: MediaFacts) -> dict[str, Any]:
    return {"fingerprint": file.fingerprint, "uri": file.uri, "media_type": file.media_type, "size": file.size}


def _upsert(connection: sa.Connection, now: float, name: str, files: Sequence[MediaFacts]) -> set[str]:
    """Insert or update media files; return the keys that are new, changed or back."""
    known = _locked(connection, name, [file.key for file in files])
    new = [file for file in files if file.key not in known]
    if new:
        inserted = connection.execute(
            insert_new(connection, media).returning(media.c.key),
            [
                {
                    "pipeline": name,
                    "key": file.key,
                    "uri": file.uri,
                    "media_type": file.media_type,
                    "size": file.size,
                    "token": file.token,
                    "fingerprint": file.fingerprint,
                    "changed_at": now,
                    "updated_at": now,
                }
                for file in new
            ],
        )
        # What another process inserted meanwhile is known after all.
        others = {file.key for file in new} - {key for (key,) in inserted}
        known |= _locked(connection, name, others)
    changed = {
        file.key
        for file in files
        if file.key not in known or (known[file.key].fingerprint, known[file.key].gone_at) != (file.fingerprint, None)
    }
    for file in files:
        if (before := known.get(file.key)) is None:
            continue
        values: dict[str, Any] = {"token": file.token, "uri": file.uri, "size": file.size}
        if file.key not in changed and all(getattr(before, name) == value for name, value in values.items()):
            continue
        if file.key in changed:
            values |= {"gone_at": None, "updated_at": now, **UNDEFERRED}
            if before.fingerprint != file.fingerprint:
                values |= {
                    "fingerprint": file.fingerprint,
                    "media_type": file.media_type,
                    "duration_sec": None,
                    "changed_at": now,
                    "task_id": None,
                }
        connection.execute(sa.update(media).where(media.c.pipeline == name, media.c.key == file.key).values(values))
    return changed


def _locked(connection: sa.Connection, name: str, keys: Collection[str]) -> dict[str, Any]:
    """Lock media files, and return what the library last said of each, and since when it is gone."""
    if not keys:
        return {}
    found = connection.execute(
        sa.select(media.c.key, media.c.fingerprint, media.c.gone_at, media.c.token, media.c.uri, media.c.size)
        .where(media.c.pipeline == name, media.c.key.in_(keys))
        .order_by(media.c.key)
        .with_for_update()
    )
    return {row.key: row for row in found}


def _in_chunks(connection: sa.Connection, query: sa.Select[Any], keys: Collection[str]) -> Iterator[Any]:
    for part in chunks(keys):
        yield from connection.execute(query.where(media.c.key.in_(part)))
